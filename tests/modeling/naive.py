"""Naive twins of the model: docs/method.md in numpy float64 and plain loops. The fixture `naive` hands them out."""

import math

import numpy as np

EPS = 1e-5  # of batch norms and LN_m
QUARTER = math.pi / 2
ANGLES = [
    (0, 0, QUARTER),
    (QUARTER, 0, QUARTER),
    (math.pi, 0, QUARTER),
    (3 * QUARTER, 0, QUARTER),
    (0, -QUARTER, QUARTER),
    (0, QUARTER, QUARTER),
    (math.pi / 4, 0, QUARTER),
    (3 * math.pi / 4, 0, QUARTER),
    (5 * math.pi / 4, 0, QUARTER),
    (7 * math.pi / 4, 0, QUARTER),
]


def farthest_points(points, num_samples, excluded=()):
    chosen, nearest = [0], [math.inf] * len(points)
    while len(chosen) < num_samples:
        last = points[chosen[-1]]
        best, best_distance = 0, -1.0
        for index, point in enumerate(points):
            nearest[index] = min(nearest[index], sum((a - b) ** 2 for a, b in zip(point, last, strict=True)))
            if index not in excluded and nearest[index] > best_distance:
                best, best_distance = index, nearest[index]
        chosen.append(best)
    return chosen


def in_own_order(points):
    """One cloud [N, 3], the point farthest from the centroid first, then by x, y, z."""
    rest = sorted(points.tolist())
    centroid = [sum(axis) / len(rest) for axis in zip(*rest, strict=True)]
    distances = [sum((a - b) ** 2 for a, b in zip(point, centroid, strict=True)) for point in rest]
    start = rest.pop(distances.index(max(distances)))
    return np.array([start, *rest])


def nearest_points(points, center, num_neighbors):
    distances = [sum((a - b) ** 2 for a, b in zip(point, center, strict=True)) for point in points]
    return sorted(range(len(points)), key=distances.__getitem__)[:num_neighbors]


def geometry_encoding(offset, channels):
    num_frequencies = channels // 6
    encoded = []
    for axis in range(3):
        angles = [100 * offset[axis] / 1000 ** (f / num_frequencies) for f in range(num_frequencies)]
        encoded += [math.sin(angle) for angle in angles] + [math.cos(angle) for angle in angles]
    return np.array(encoded)


def extent_normalized(offsets):
    result = np.zeros_like(offsets)
    for group in range(len(offsets)):
        for axis in range(3):
            extent = max(abs(value) for value in offsets[group, :, axis])
            if extent > 0:
                result[group, :, axis] = offsets[group, :, axis] / extent
    return result


def deviation_normalized(offsets):
    return offsets / (np.std(offsets, ddof=1) + 1e-5)


def relu(values):
    return np.maximum(values, 0)


def gelu(values):
    return np.vectorize(lambda x: x * 0.5 * (1 + math.erf(x / math.sqrt(2))))(values)


def quick_gelu(values):
    return values / (1 + np.exp(-1.702 * values))


def linear(values, state, name):
    product = values @ state[f"{name}.weight"].T
    return product + state[f"{name}.bias"] if f"{name}.bias" in state else product


def batch_norm(values, state, name, training=False, updates=None):
    weight, bias = state[f"{name}.weight"], state[f"{name}.bias"]
    mean, variance = state[f"{name}.running_mean"], state[f"{name}.running_var"]
    if training:
        rows = values.reshape(-1, values.shape[-1])
        batch_mean, batch_variance = rows.mean(axis=0), rows.var(axis=0)
        updates[f"{name}.running_mean"] = 0.9 * mean + 0.1 * batch_mean
        updates[f"{name}.running_var"] = 0.9 * variance + 0.1 * rows.var(axis=0, ddof=1)
        mean, variance = batch_mean, batch_variance
    return (values - mean) / np.sqrt(variance + EPS) * weight + bias


def layer_norm(values, weight, bias, eps=EPS):
    mean, variance = values.mean(-1, keepdims=True), values.var(-1, keepdims=True)
    return (values - mean) / np.sqrt(variance + eps) * weight + bias


def tokenize(points, state, num_neighbors, normalization, prefix="", training=False, updates=None):
    """[B, N, 3] -> tokens [B, G, D] and centres [B, G, 3]; `state` holds numpy arrays by parameter name."""

    def norm(values, name):
        return batch_norm(values, state, prefix + name, training, updates)

    features = relu(norm(linear(points, state, f"{prefix}stem"), "stem_norm"))
    for stage, num_bottlenecks in enumerate((2, 1, 1)):
        num_points, num_centers = points.shape[1], points.shape[1] // 2
        count = min(num_neighbors, num_points)
        channels = 2 * features.shape[-1]
        order = [farthest_points(cloud, num_centers) for cloud in points]
        hidden = np.empty((len(points), num_centers, count, channels))
        for b, cloud in enumerate(points):
            neighbors = [nearest_points(cloud, cloud[center], count) for center in order[b]]
            offsets = np.stack([cloud[n] - cloud[c] for n, c in zip(neighbors, order[b], strict=True)])
            normalize = extent_normalized if normalization == "extent" else deviation_normalized
            offsets = normalize(offsets)
            for g, center in enumerate(order[b]):
                for k, neighbor in enumerate(neighbors[g]):
                    joined = np.concatenate([features[b, neighbor], features[b, center]])
                    hidden[b, g, k] = joined + geometry_encoding(offsets[g, k], channels)
        for index in range(num_bottlenecks):
            name = f"stages.{stage}.bottlenecks.{index}"
            inner = relu(norm(linear(hidden, state, f"{prefix}{name}.down"), f"{name}.down_norm"))
            hidden = relu(hidden + norm(linear(inner, state, f"{prefix}{name}.up"), f"{name}.up_norm"))
        features = hidden.max(axis=2)
        points = np.stack([cloud[indices] for cloud, indices in zip(points, order, strict=True)])
    if f"{prefix}projection.weight" in state:
        features = linear(features, state, f"{prefix}projection")
    return features, points


def rotation(angles):
    (cx, cy, cz), (sx, sy, sz) = (tuple(f(a) for a in angles) for f in (math.cos, math.sin))
    about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    return about_x @ about_y @ about_z


def views(centers, num_views):
    return [np.stack([rotation(angles) @ point for point in centers]) for angles in ANGLES[:num_views]]


def line_coordinates(centers, num_views, direction, length):
    """[G, 3] -> [M, G]."""
    direction = np.array(direction) / np.linalg.norm(direction)
    lines = []
    for rotated in views(centers - centers.mean(axis=0), num_views):
        distances = [float(np.dot(point, direction)) for point in rotated]
        lowest, highest = min(distances), max(distances)
        if highest > lowest:
            lines.append([(u - lowest) / (highest - lowest) * (length - 1) for u in distances])
        else:
            lines.append([(length - 1) / 2] * len(distances))
    return np.array(lines)


def plane_coordinates(centers, num_views, width, height, camera_distance=1.4, orthographic=False):
    """[G, 3] -> pixels [M, G, 2]."""
    planes = []
    for rotated in views(centers, num_views):
        pixels = []
        if orthographic:
            middle = (rotated.min(axis=0) + rotated.max(axis=0)) / 2
            half = (rotated.max(axis=0) - rotated.min(axis=0)).max() / 2
        for x, y, z in rotated:
            if orthographic:
                x, y = 0.8 * (x - middle[0]) / half, 0.8 * (y - middle[1]) / half
            else:
                x, y = x / (z + camera_distance), y / (z + camera_distance)
            pixel_x, pixel_y = (x + 1) * width / 2 - 0.5, (y + 1) * height / 2 - 0.5
            pixels.append((min(max(pixel_x, 0), width - 1), min(max(pixel_y, 0), height - 1)))
        planes.append(pixels)
    return np.array(planes)


def read_line(table, coordinate):
    left = min(math.floor(coordinate), len(table) - 1)
    right = min(left + 1, len(table) - 1)
    fraction = coordinate - left
    return (1 - fraction) * table[left] + fraction * table[right]


def read_plane(table, pixel, plane, grid):
    """table [rows·columns, D] row by row; corner pixels lie on corner cells."""
    (width, height), (num_rows, num_columns) = plane, grid
    column = pixel[0] * (num_columns - 1) / (width - 1)
    rows = [read_line(table[row * num_columns : (row + 1) * num_columns], column) for row in range(num_rows)]
    return read_line(np.array(rows), pixel[1] * (num_rows - 1) / (height - 1))


def line_cells(coordinates, size):
    return [[math.floor(c / size) for c in view] for view in coordinates]


def plane_cells(coordinates, size):
    return [[(math.floor(x / size), math.floor(y / size)) for x, y in view] for view in coordinates]


def voxels(centers, size):
    lowest = centers.min(axis=0)
    return [tuple(math.floor(value / size) for value in center - lowest) for center in centers]


def members(cells):
    """The tokens of each cell, as a list of lists of indices."""
    found = {}
    for index, cell in enumerate(cells):
        found.setdefault(cell, []).append(index)
    return list(found.values())


def local_attention(tokens, cells, state, view, num_heads=6, width=12):
    """Z = X + Attn_m(LN_m(X)) of one view: [G, D] -> [G, D]."""
    normed = layer_norm(tokens, state["norm_weight"][view], state["norm_bias"][view])
    qkv = normed @ state["qkv_weight"][view].T + state["qkv_bias"][view]
    query, key, value = np.split(qkv, 3, axis=-1)
    size = width // num_heads
    mixed = np.zeros((len(tokens), width))
    for group in members(cells):
        for token in group:
            for head in range(num_heads):
                part = slice(head * size, (head + 1) * size)
                scores = np.array([query[token, part] @ key[other, part] for other in group]) * width**-0.5
                weights = np.exp(scores - scores.max())
                weights /= weights.sum()
                mixed[token, part] = sum(w * value[o, part] for w, o in zip(weights, group, strict=True))
    return tokens + mixed @ state["out_weight"][view].T + state["out_bias"][view]


def pooled_branch(features, cells, state, name, branch, use_mean, use_max, training=False, updates=None):
    """Pooling, batch norm over the occupied cells, GELU, copied back: clouds [B][G, D] -> same, one branch."""
    groups = [members(cloud_cells) for cloud_cells in cells]
    rows = []
    for cloud, cloud_groups in zip(features, groups, strict=True):
        for group in cloud_groups:
            rows.append(use_mean * cloud[group].mean(axis=0) + use_max * cloud[group].max(axis=0))
    own = {f"n.{key}": state[f"{name}.{key}"][branch] for key in ("weight", "bias", "running_mean", "running_var")}
    own_updates = {}
    normed = gelu(batch_norm(np.stack(rows), own, "n", training, own_updates))
    if training:
        for key in ("running_mean", "running_var"):
            updates[f"{name}.{key}"][branch] = own_updates[f"n.{key}"]
    result, row = np.zeros_like(features), 0
    for b, cloud_groups in enumerate(groups):
        for group in cloud_groups:
            result[b, group] = normed[row]
            row += 1
    return result


def aggregate(
    tokens, view_cells, voxel_cells, norms, attention, scale, max_pooling, adaptive, training=False, updates=None
):
    """Guided aggregation: tokens [B, G, D], view_cells [B][M][G], voxel_cells [B][G]."""
    num_views = len(view_cells[0])
    features = []
    for m in range(num_views):
        cells = [cloud[m] for cloud in view_cells]
        attended = np.stack([local_attention(t, c, attention, m) for t, c in zip(tokens, cells, strict=True)])
        features.append(pooled_branch(attended, cells, norms, "view_norm", m, 1, max_pooling, training, updates))
    if not adaptive:
        return tokens + scale * sum(features) / num_views
    reference = pooled_branch(tokens, voxel_cells, norms, "voxel_norm", 0, 1, 1, training, updates)
    result = tokens.copy()
    for b in range(len(tokens)):
        for t in range(tokens.shape[1]):
            guide = reference[b, t]
            weights = []
            for m in range(num_views):
                feature = features[m][b, t]
                cosine = feature @ guide / (np.linalg.norm(feature) * np.linalg.norm(guide))
                weights.append((cosine + 1) / 2)
            total = sum(weights)
            for m in range(num_views):
                result[b, t] += scale * weights[m] / total * features[m][b, t]
    return result


def bottleneck(values, state, name, scale):
    return scale * linear(quick_gelu(linear(values, state, f"{name}.down")), state, f"{name}.up")
