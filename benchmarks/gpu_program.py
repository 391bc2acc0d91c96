"""How many kernels does a step start on an H200, what do they move, and does it wait for its host?

    python benchmarks/gpu_program.py [METHOD ...]

Compiles the step that `step_overhead.py` times (full-width ResNet-18, here in bfloat16) and the passes alone with XLA's
compiler for NVIDIA GPUs, which needs no GPU, and reads off the programs how many kernels a step starts, what they move
to and from memory, and whether the device ever waits for its host. Nothing is timed, and no algorithm is tuned.
Needs XLA's GPU plugin: pip install jax-cuda13-plugin, which pip install -e .[gpu] brings.
"""

import argparse
import os
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
# Matrix products by cuBLAS: the tiles of XLA's own are found by timing them.
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_gpu_enable_triton_gemm=false"

import jax
from jax.experimental import topologies
import record
import step_overhead

from ssl_jax.methods import build
from ssl_jax.plan import hlo, traffic

# What XLA asks of an H200 (SXM), from NVIDIA's data sheet and the CUDA programming guide for compute capability 9.0.
TARGET = """
platform_name: "CUDA"
device_description_str: "NVIDIA H200"
dnn_version_info { major: 9 minor: 8 }
runtime_version { major: 12 minor: 9 }
gpu_device_info {
  cuda_compute_capability { major: 9 minor: 0 }
  core_count: 132
  fpus_per_core: 128
  clock_rate_ghz: 1.98
  memory_bandwidth: 4800000000000
  device_memory_size: 151397597184
  l2_cache_size: 52428800
  threads_per_warp: 32
  threads_per_block_limit: 1024
  threads_per_core_limit: 2048
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  registers_per_block_limit: 65536
  registers_per_core_limit: 65536
  shared_memory_per_block: 49152
  shared_memory_per_block_optin: 232448
  shared_memory_per_core: 233472
}
"""
COLUMNS = ("kernels", "waits for the host", "full, MB", "bare, MB", "ratio")


def find_device() -> jax.Device:
    """An H200 that need not be there."""
    try:
        return topologies.get_topology_desc("h200", platform="cuda", target_config=TARGET, topology="1x1x1").devices[0]
    except (NotImplementedError, RuntimeError) as error:  # of the plugin none, or none that knows such a chip
        raise SystemExit(f"XLA's compiler for GPUs is missing ({error}): pip install jax-cuda13-plugin.") from error


def main() -> None:
    """Prints a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("methods", nargs="*", metavar="METHOD", help="default: all")
    parser.add_argument("--batch", type=int, default=512, help="images a step")
    parser.add_argument("--width", type=int, default=64, help="channels of the first stage of the ResNet-18")
    args = parser.parse_args()
    device, found = find_device(), {}
    print(record.told())
    print(f"ResNet-18 of width {args.width}, batch {args.batch}, 32 px, bfloat16, jax {jax.__version__}, for ", end="")
    print(f"{device.device_kind}\n\n| method | {' | '.join(COLUMNS)} |")
    print("|" + " --- |" * 6, flush=True)
    for method in args.methods or build.names():
        run = step_overhead.prepared(method, args.batch, args.width, [device], "bfloat16")
        full, bare = (compiled.as_text() for compiled in step_overhead.programs(run))
        moved, least = traffic.main_memory(full) / 1e6, traffic.main_memory(bare) / 1e6
        waits = ", ".join(hlo.host_waits(full)) or "never"
        cells = [hlo.kernels(full), waits, f"{moved:.0f}", f"{least:.0f}", f"{moved / least:.3f}"]
        print(f"| {method} | " + " | ".join(map(str, cells)) + " |", flush=True)
        found[method] = dict(zip(COLUMNS, cells, strict=True))
    record.add(found, batch=args.batch, width=args.width, device=device.device_kind)


if __name__ == "__main__":
    main()
