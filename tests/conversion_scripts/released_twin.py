"""What the authors' released code computes at inference, written a second time and plainly.

The tests compare the package's `released_compatibility` mode with it. It was written from the notes on the released
code (SPEC.md section 6, golden/NOTES.md) alone, shares no line with the package, and does one thing after the other:
loops over clouds, views and cells, no caching, no care for speed.

The released code takes some statistics over the batch, so `run` treats the clouds it is given as that batch.
One thing is left out: where the modulo rounds audio's y up to the canvas height itself (only a tiny negative y does),
the released code puts the token into a cell of the next cloud; here cells never leave their cloud.

Shapes: B clouds, N points, G tokens, K neighbours, M views, D channels.
"""

import math

import torch
from torch.nn import functional as F

VIEWS = [(0, 0, 1), (1, 0, 1), (2, 0, 1), (3, 0, 1), (0, -1, 1), (0, 1, 1)]  # turns about x, y, z in quarter circles
BACKBONE_HEADS = 12


@torch.no_grad()
def run(setting, state, table, clouds, fields):
    """Run one batch of clouds [B, N, 3] through the model of an original state dict.

    `table` is the backbone's positional table, `fields` the setting's entry in presets.json. The result holds every
    step for the batch: `hidden` is a list with one [B, 1 + G, D] a block, the rest are tensors with B in front.
    """
    state = {name.removeprefix("encoder."): tensor for name, tensor in state.items()}
    dtype = state["cls_token"].dtype
    clouds, table = clouds.to(dtype), table.to(dtype)

    centres, tokens = tokenize(state, clouds, fields)
    if fields["modality"] == "1d":
        coords = line_coordinates(centres, fields, length=len(table))  # [B, M, G]
        pe = line_encoding(table, coords)
        view_cell = (coords / fields["cell_size"]).floor().long()
    else:
        width, height = fields.get("plane_released") or fields["plane"]
        coords = plane_coordinates(centres, fields, width, height)  # [B, M, G, 2]
        pe = plane_encoding(table, coords, width, height)
        column, row = (coords / fields["cell_size"]).floor().long().unbind(-1)
        view_cell = column + row * math.ceil(width / fields["cell_size"])
    voxel_cluster = torch.stack([voxels(cloud, fields["voxel_size"]) for cloud in centres])

    batch = len(clouds)
    x = torch.cat([state["cls_token"].expand(batch, -1, -1), tokens], dim=1)
    positions = torch.cat([state["cls_pos"].expand(batch, -1, -1), pe], dim=1)
    if fields["position_injection"] in ("input", "input+blocks"):
        x = x + positions
    hidden = []
    block, blocks = (clip_block, "resblocks") if setting.startswith("clip") else (vision_block, "blocks")
    depth = 1 + max(int(name.split(".")[1]) for name in state if name.startswith(blocks + "."))
    for i in range(depth):
        if fields["position_injection"] in ("blocks", "input+blocks"):
            x = x + positions
        x = block(state, f"{blocks}.{i}", x, fields)
        for b in range(batch):
            x[b, 1:] = aggregate(state, f"{blocks}.{i}", x[b, 1:], view_cell[b], voxel_cluster[b], fields)
        hidden.append(x)

    x = layer_norm(state, "norm", x, fields["final_norm_eps_released"])
    parts = {"cls": x[:, 0], "max": x[:, 1:].amax(1)}
    feature = torch.cat([parts[name] for name in fields["pooling"]], dim=-1)
    return {
        "centres": centres,
        "tokens": tokens,
        "coords": coords,
        "pe": pe,
        "view_cell": view_cell,
        "voxel_cluster": voxel_cluster,
        "hidden": hidden,
        "feature": feature,
        "logits": head(state, feature),
    }


# --- layers of the state dict -----------------------------------------------------------------------------------------


def linear(state, name, x):
    """Linear layer or convolution of kernel size 1, over the last axis."""
    return F.linear(x, state[name + ".weight"].flatten(1), state.get(name + ".bias"))


def layer_norm(state, name, x, eps):
    return F.layer_norm(x, x.shape[-1:], state[name + ".weight"], state[name + ".bias"], eps)


def batch_norm(state, name, x):
    """Batch norm with its running statistics, over the last axis."""
    x = (x - state[name + ".running_mean"]) / torch.sqrt(state[name + ".running_var"] + 1e-5)
    return x * state[name + ".weight"] + state[name + ".bias"]


def quick_gelu(x):
    return x * torch.sigmoid(1.702 * x)


# --- tokenizer --------------------------------------------------------------------------------------------------------


def tokenize(state, clouds, fields):
    """Clouds [B, N, 3] to centres [B, N/8, 3] and tokens [B, N/8, D]."""
    encoder = "patch_embed.EncP."
    stem = encoder + "raw_point_embed.net."
    xyz = clouds
    x = F.relu(batch_norm(state, stem + "1", linear(state, stem + "0", clouds)))
    for stage in range(3):
        count = xyz.shape[1] // 2
        centre_index = [farthest_points(cloud, count) for cloud in xyz]
        centres = torch.stack([xyz[b][centre_index[b]] for b in range(len(xyz))])
        neighbour_index = [nearest(centres[b], xyz[b], fields["num_neighbors"]) for b in range(len(xyz))]
        delta = torch.stack([xyz[b][neighbour_index[b]] for b in range(len(xyz))])  # [B, G, K, 3]
        delta = delta - centres[:, :, None]
        if fields["neighborhood_norm"] == "extent":
            delta = delta / delta.abs().amax(2, keepdim=True)
        else:
            delta = delta / (delta.std() + 1e-5)  # one number for the whole batch, its clouds and axes
        features = []
        for b in range(len(xyz)):  # one cloud at a time, to keep memory small
            own = x[b][centre_index[b]][:, None].expand(-1, delta.shape[2], -1)
            h = torch.cat([x[b][neighbour_index[b]], own], dim=-1)  # [G, K, C]
            h = h + geometry(delta[b], h.shape[-1])
            for i in range(2 if stage == 0 else 1):
                name = f"{encoder}LGA_list.{stage}.linear2.{i}."
                inner = F.relu(batch_norm(state, name + "net1.1", linear(state, name + "net1.0", h)))
                h = F.relu(h + batch_norm(state, name + "net2.1", linear(state, name + "net2.0", inner)))
            features.append(h.amax(1))
        xyz, x = centres, torch.stack(features)
    return xyz, x


def farthest_points(cloud, count):
    """Farthest point sampling from point 0; points next to the origin are never picked later."""
    distance = torch.full_like(cloud[:, 0], 1e10)
    distance[cloud.square().sum(-1) <= 1e-3] = -1
    picked = [0]
    while len(picked) < count:
        distance = torch.minimum(distance, (cloud - cloud[picked[-1]]).square().sum(-1))
        picked.append(int(distance.argmax()))
    return torch.tensor(picked)


def nearest(centres, cloud, count):
    """Indices [G, K] of the points nearest to each centre."""
    distance = (centres[:, None] - cloud[None]).square().sum(-1)
    return distance.topk(count, largest=False).indices


def geometry(delta, channels):
    """Sines then cosines of each of the three axes: [..., 3] to [..., channels]."""
    count = channels // 6
    frequency = torch.pow(1000.0, torch.arange(count, dtype=delta.dtype) / count)
    parts = []
    for axis in range(3):
        angle = 100 * delta[..., axis, None] / frequency
        parts += [angle.sin(), angle.cos()]
    return torch.cat(parts, dim=-1)


# --- views ------------------------------------------------------------------------------------------------------------


def rotation(turns, dtype):
    (cx, sx), (cy, sy), (cz, sz) = [(math.cos(t * math.pi / 2), math.sin(t * math.pi / 2)) for t in turns]
    about_x = torch.tensor([[1, 0, 0], [0, cx, -sx], [0, sx, cx]], dtype=dtype)
    about_y = torch.tensor([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]], dtype=dtype)
    about_z = torch.tensor([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]], dtype=dtype)
    return about_x @ about_y @ about_z


def line_coordinates(centres, fields, length):
    """Place of each centre on the line of each view, [B, M, G], in [0, length)."""
    direction = torch.tensor(fields["line_direction_released"], dtype=centres.dtype)
    direction = direction / direction.norm()
    views = []
    for turns in VIEWS:
        u = (centres - centres.mean(1, keepdim=True)) @ rotation(turns, centres.dtype).T @ direction
        low, high = u.amin(1, keepdim=True), u.amax(1, keepdim=True)
        views.append(torch.remainder((u - low) / (high - low) * length - 0.5, length))
    return torch.stack(views, dim=1)


def line_encoding(table, coords):
    """Interpolated rows of the table, averaged over the views; the scale is that of the whole batch."""
    last = len(table) - 1
    x = coords * last / (coords.max() - coords.min())
    left, right = x.floor().clamp(0, last), x.ceil().clamp(0, last)
    encoding = (right - x)[..., None] * table[left.long()] + (x - left)[..., None] * table[right.long()]
    return encoding.mean(1)


def plane_coordinates(centres, fields, width, height):
    """Pixel (x, y) of each centre in each view, [B, M, G, 2]."""
    views = []
    for turns in VIEWS:
        x, y, z = (centres @ rotation(turns, centres.dtype).T).unbind(-1)
        z = z + fields["camera_distance"]
        x, y = x / z, y / z * (height / width)
        x = torch.remainder((x + 1) * width / 2 - 0.5, width)
        y = torch.remainder((y + 1) * height / 2 - 0.5, height)
        views.append(torch.stack([x, y], dim=-1))
    return torch.stack(views, dim=1)


def plane_encoding(table, coords, width, height):
    """The table sampled at the pixels; the [D, G] block of each view is read as if it were [G, D]."""
    dim = table.shape[-1]
    patch = math.isqrt(width * height // (table.shape[1] - 1))
    grid = table[0, 1:].reshape(1, height // patch, width // patch, dim).permute(0, 3, 1, 2)
    at = 2 * coords / torch.tensor([width - 1, height - 1], dtype=coords.dtype) - 1
    encoding = torch.zeros(len(coords), coords.shape[2], dim, dtype=coords.dtype)
    for b in range(len(coords)):
        for m in range(len(VIEWS)):
            sampled = F.grid_sample(grid, at[b, m][None, :, None], "bilinear", "zeros", True)  # [1, D, G, 1]
            encoding[b] += sampled.reshape(-1, dim) / len(VIEWS)
    return encoding


def voxels(centres, size):
    """Number of the occupied voxel [G] of each centre of one cloud, x running fastest."""
    voxel = ((centres - centres.amin(0)) / size).long()
    nx, ny, _ = (voxel.amax(0) + 1).tolist()
    return torch.unique(voxel[:, 0] + nx * (voxel[:, 1] + ny * voxel[:, 2]), return_inverse=True)[1]


# --- blocks -----------------------------------------------------------------------------------------------------------


def attention(q, k, v, heads, scale, allowed=None):
    """Attention over the last but one axis; `allowed` [L, L] says who may look at whom."""
    q, k, v = (t.unflatten(-1, (heads, -1)).transpose(-2, -3) for t in (q, k, v))
    scores = q @ k.transpose(-1, -2) * scale
    if allowed is not None:
        scores = scores.masked_fill(~allowed, -math.inf)
    return (scores.softmax(-1) @ v).transpose(-2, -3).flatten(-2)


def clip_block(state, name, x, fields):
    """CLIP's block, whose attention takes the batch for the sequence."""
    eps = fields["layer_norm_eps_released"]
    h = layer_norm(state, name + ".ln_1", x, eps).transpose(0, 1)  # [1 + G, B, D]: each token sees itself in all clouds
    qkv = F.linear(h, state[name + ".attn.in_proj_weight"], state[name + ".attn.in_proj_bias"])
    scale = (x.shape[-1] // BACKBONE_HEADS) ** -0.5
    h = attention(*qkv.chunk(3, dim=-1), BACKBONE_HEADS, scale)
    x = x + linear(state, name + ".attn.out_proj", h).transpose(0, 1)
    h = quick_gelu(linear(state, name + ".mlp.c_fc", layer_norm(state, name + ".ln_2", x, eps)))
    return add_with_bottleneck(state, name, x, linear(state, name + ".mlp.c_proj", h), fields)


def vision_block(state, name, x, fields):
    """DINOv2's block, and ImageBind's, which has no LayerScale."""
    eps = fields["layer_norm_eps_released"]
    qkv = linear(state, name + ".attn.qkv", layer_norm(state, name + ".norm1", x, eps))
    scale = (x.shape[-1] // BACKBONE_HEADS) ** -0.5
    h = attention(*qkv.chunk(3, dim=-1), BACKBONE_HEADS, scale)
    x = x + linear(state, name + ".attn.proj", h) * state.get(name + ".ls1.gamma", 1)
    h = F.gelu(linear(state, name + ".mlp.fc1", layer_norm(state, name + ".norm2", x, eps)))
    f = linear(state, name + ".mlp.fc2", h) * state.get(name + ".ls2.gamma", 1)
    return add_with_bottleneck(state, name, x, f, fields)


def add_with_bottleneck(state, name, x, f, fields):
    """The feed-forward branch's output f goes into the residual with what the bottleneck makes of it."""
    adapted = linear(state, name + ".adapter.ln2", quick_gelu(linear(state, name + ".adapter.ln1", f)))
    return x + f + fields["adapter_scale"] * adapted


def aggregate(state, name, x, view_cell, voxel_cluster, fields):
    """Guided aggregation of the point tokens [G, D] of one cloud; view_cell is [M, G]."""
    source = pool(x, voxel_cluster, "mean+max")
    source = F.gelu(batch_norm(state, name + ".out_transform_3d.0", source))
    transform = ".out_transform_1d" if fields["modality"] == "1d" else ".out_transform_2d"
    total = weighted = 0
    for m, cell in enumerate(view_cell):
        qkv = linear(state, f"attn1.{m}.qkv", layer_norm(state, f"norm3.{m}", x, 1e-5))
        scale = fields["local_attention_dim"] ** -0.5  # of all heads together
        same_cell = cell[:, None] == cell[None]
        h = attention(*qkv.chunk(3, dim=-1), fields["local_attention_heads"], scale, same_cell)
        z = x + linear(state, f"attn1.{m}.proj", h)
        view = F.gelu(batch_norm(state, f"{name}{transform}.{m}.0", pool(z, cell, fields["cell_pooling"])))
        weight = (F.cosine_similarity(view, source, dim=-1)[:, None] + 1) / 2  # [G, 1]
        total, weighted = total + weight, weighted + weight * view
    return x + fields["aggregation_scale"] * weighted / total


def pool(x, group, how):
    """Give every token [G, D] the mean, or mean + max, of the tokens of its group."""
    pooled = torch.zeros_like(x)
    for g in group.unique():
        members = x[group == g]
        pooled[group == g] = members.mean(0) + (members.amax(0) if how == "mean+max" else 0)
    return pooled


# --- head -------------------------------------------------------------------------------------------------------------


def head(state, feature):
    if "prediction.head.0.0.weight" in state:
        layers = [("prediction.head.0.0", "prediction.head.0.1"), ("prediction.head.2.0", "prediction.head.2.1")]
        last = "prediction.head.4.0"
    else:
        layers = [("cls_head_finetune.0", "cls_head_finetune.1"), ("cls_head_finetune.4", "cls_head_finetune.5")]
        last = "cls_head_finetune.8"
    for dense, norm in layers:
        feature = F.relu(batch_norm(state, norm, linear(state, dense, feature)))
    return linear(state, last, feature)
