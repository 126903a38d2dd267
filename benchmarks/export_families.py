"""Exports a tiny model of every family and compares: ONNX Runtime and `torch.compile` with the model itself.

python benchmarks/export_families.py --output families.jsonl [--only bert llama]

A family takes about a minute of one core; what stands in the output already is not done again. At the end the table of
docs/export.md is printed: the largest difference of a logit over batches of 1, 2, 5 and 7 (random, flat, repeated and
whole-number clouds), graph breaks of `torch.compile`, and what failed, with its reason.
"""

import argparse
import importlib.util
import json
import tempfile
import time
import warnings
from pathlib import Path

import onnxruntime
import torch

from any2point_hf.export import export_onnx

TESTS = Path(__file__).parents[1] / "tests" / "modeling"


def load_tests():
    """The tiny models of the tests."""
    spec = importlib.util.spec_from_file_location("conftest", TESTS / "conftest.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Make


def make_clouds(make):
    """Batches [B, 64, 3]: random, flat, with repeated points, and on a grid, where many distances are equal."""
    random = make.points(7, 64)
    grid = torch.stack(torch.meshgrid(*[torch.arange(4.0)] * 3, indexing="ij"), dim=-1).reshape(1, 64, 3) / 2 - 0.75
    return [random, make.points(5, 64) * torch.tensor([1.0, 1.0, 0.0]), random[:2, :8].repeat(1, 8, 1), grid]


def compare(model, run, batches):
    """The largest difference of a logit."""
    with torch.no_grad():
        return max(float((run(points) - model(points).logits).abs().max()) for points in batches)


def export(model, batches):
    """Difference, seconds and bytes of the ONNX file."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.onnx"
        started = time.process_time()
        report = export_onnx(model, file)
        seconds = time.process_time() - started
        session = onnxruntime.InferenceSession(file)
        run = lambda points: torch.from_numpy(session.run(None, {"points": points.numpy()})[0])  # noqa: E731
        return {"onnx": compare(model, run, batches), "seconds": round(seconds, 1), "bytes": report.bytes}


def compile_graph(model, batches):
    """Difference and graph breaks of the compiled model; the graph is run as it is, not by inductor."""
    torch._dynamo.reset()
    breaks = torch._dynamo.explain(model)(batches[0]).graph_break_count
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, dynamic=False, backend="eager")
    return {"compiled": compare(model, lambda points: compiled(points).logits, batches[:1]), "breaks": breaks}


def measure(make, family):
    """What happens to one family; an error stands for what it prevents."""
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = make.model(family, head=True, num_points=64)
        batches, result = make_clouds(make), {"family": family}
        for step in (export, compile_graph):
            try:
                result |= step(model, batches)
            except Exception as error:
                result[f"{step.__name__}_error"] = f"{type(error).__name__}: {str(error).splitlines()[0][:300]}"
    return result


def table(results):
    """Markdown, a line a family."""
    lines = ["| family | ONNX | `torch.compile` | graph breaks | file |", "|---|---|---|---|---|"]
    for result in results:
        cells = [f"{result[name]:.0e}" if name in result else "failed" for name in ("onnx", "compiled")]
        size = f"{result['bytes'] / 1e6:.1f} MB" if "bytes" in result else ""
        lines.append(f"| {result['family']} | {' | '.join(cells)} | {result.get('breaks', '')} | {size} |")
    return "\n".join(lines)


def main():
    """Measures what is missing, then prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="results, a line of JSON a family")
    parser.add_argument("--only", nargs="+", help="families (default: all)")
    options = parser.parse_args()
    make = load_tests()
    options.output.touch()
    done = {json.loads(line)["family"] for line in options.output.read_text().splitlines()}
    for family in options.only or make.families_of:
        if family not in done:
            result = measure(make, family)
            with options.output.open("a") as file:
                file.write(json.dumps(result) + "\n")
            print(json.dumps(result), flush=True)
    results = [json.loads(line) for line in options.output.read_text().splitlines()]
    print(table(results))


if __name__ == "__main__":
    main()
