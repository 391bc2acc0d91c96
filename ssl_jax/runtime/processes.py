"""Several processes of one run: how they start, agree and end.

Every process runs the same program on its own devices. They must take every decision alike, since a collective that
one of them does not join hangs the others; what only one can know (a signal it caught, what a file says) goes through
the few functions here.
"""

from collections.abc import Callable
import ctypes
import functools
import importlib.util
import os
import re
import signal
import sys
import traceback
from typing import Any, NoReturn
import urllib.error
import urllib.request

import jax
from jax.experimental import multihost_utils
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
import numpy as np

from ssl_jax import dist
from ssl_jax.runtime.errors import UserError

RESUMABLE = 75  # exit status: stopped, and the same command goes on
HEARTBEAT = 60  # seconds of silence after which a process counts as lost
_LOST = "Another process of this run was lost; the same command resumes from the last checkpoint."
# How collectives on CPUs and GPUs fail when their peer is gone.
_PEER_GONE = re.compile(
    r"gloo.*failed|nccl.*(remote|abort)|connection (reset|closed)|heartbeat|coordination serv", re.I
)
_METADATA = "/computeMetadata/v1/instance/attributes/"


def start(coordinator: str | None = None, count: int | None = None, own: int | None = None) -> None:
    """Joins the processes of a run; does nothing for a run of one. To be called before any device is touched.

    On a TPU slice, in a Slurm step and in an indexed Kubernetes job JAX knows all of it. Elsewhere it comes from
    the arguments, or else from JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID.

    Args:
      coordinator: HOST:PORT of process 0, which must be free there.
      count: processes of the run.
      own: number of this one.

    Raises:
      UserError: something is missing, or the processes did not find each other.
    """
    coordinator = coordinator or os.environ.get("JAX_COORDINATOR_ADDRESS")
    count = _number("JAX_NUM_PROCESSES") if count is None else count
    own = _number("JAX_PROCESS_ID") if own is None else own
    if count == 1:
        return
    explicit: dict[str, Any] = {}
    if count is not None or own is not None:
        if coordinator is None or count is None or own is None or not 0 <= own < count:
            raise UserError(
                f"This is process {own} of {count} with coordinator {coordinator}, which is not enough to find the "
                "others: give all of --coordinator=HOST:PORT, --processes=N and --process=0 to N-1, or none."
            )
        explicit = {"coordinator_address": coordinator, "num_processes": count, "process_id": own}
        explicit["cluster_detection_method"] = "deactivate"
    elif not _one_of_several():
        return
    # Its handler of SIGTERM would take the place of ours, which knows SIGINT too.
    jax.config.update("jax_enable_preemption_service", False)
    explicit |= {"heartbeat_timeout_seconds": HEARTBEAT, "shutdown_timeout_seconds": HEARTBEAT}
    try:
        jax.distributed.initialize(**explicit)
    except (RuntimeError, ValueError, OSError) as error:
        words = " ".join(str(error).split())[:300]
        raise UserError(f"The processes of this run did not find each other ({words}): start all of them.") from error
    _make_aborts_resumable()


def _number(name: str) -> int | None:
    text = os.environ.get(name)
    if text is None:
        return None
    if not text.isdigit():
        raise UserError(f"The environment variable {name} is '{text}', not a number: set it, or unset it.")
    return int(text)


def _one_of_several() -> bool:
    """Whether the cluster around says that this process is one of several, by what JAX itself will read there.

    Only the cluster knows how many pods an indexed Kubernetes job has, so that a job of one counts as several too.
    """
    env = os.environ
    if all(f"SLURM_{name}" in env for name in ("JOB_ID", "STEP_NODELIST", "NTASKS", "PROCID", "LOCALID")):
        return int(env["SLURM_NTASKS"]) > 1
    # JAX puts "tpu" there itself on a machine that has one, unless the user wants another.
    if "tpu" in (jax.config.jax_platforms or ""):  # type: ignore[attr-defined]
        return _tpu_machines() > 1
    if "KUBERNETES_SERVICE_HOST" in env and "JOB_COMPLETION_INDEX" in env:
        if importlib.util.find_spec("kubernetes") is None:
            raise UserError(
                "This is a pod of an indexed Kubernetes job, whose other pods JAX finds with the package kubernetes, "
                "which is missing: pip install -e .[k8s], or set JAX_NUM_PROCESSES=1 for a run of its own."
            )
        return True
    return False


def _tpu_machines() -> int:
    """Machines of the TPU slice, or slices, that this one is part of: from GKE's variables, else Compute Engine's."""
    env = os.environ
    hosts = env.get("TPU_PROCESS_ADDRESSES") or env.get("TPU_WORKER_HOSTNAMES")
    slices = env.get("MEGASCALE_NUM_SLICES")
    if hosts is None and "TPU_SKIP_MDS_QUERY" not in env:
        hosts = _metadata("worker-network-endpoints")
        found = re.search(r"MEGASCALE_NUM_SLICES:\s*'?(\d+)", _metadata("tpu-env"))
        slices = found[1] if found and slices is None else slices
    return len((hosts or "").split(",")) * int(slices or 1)


def _metadata(key: str) -> str:
    """What Compute Engine says of this machine; nothing where there is no such service (Colab, Kaggle)."""
    host = os.environ.get("GCE_METADATA_IP", "metadata.google.internal")
    request = urllib.request.Request(f"http://{host}{_METADATA}{key}", headers={"Metadata-Flavor": "Google"})
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.read().decode()
    except (urllib.error.URLError, TimeoutError):
        return ""


_on_abort: Any = None  # what C calls must stay alive


def _make_aborts_resumable() -> None:
    """Makes an abort end this process with status `RESUMABLE` and a sentence.

    When a process is lost JAX aborts the others, out of a thread of its own which Python's handlers never see; its
    callback for that case cannot be given a Python function (it cannot convert the argument, jax 0.10).
    """
    global _on_abort

    def ended(number: int) -> None:
        del number
        os.write(2, f"{_LOST}\n".encode())
        os._exit(RESUMABLE)

    _on_abort = ctypes.CFUNCTYPE(None, ctypes.c_int)(ended)
    ctypes.CDLL(None).signal(int(signal.SIGABRT), _on_abort)


def run(program: Callable[[list[str]], int]) -> NoReturn:
    """Runs a program and ends this process with its status.

    A process that leaves with an error waits for nothing: not for the other processes, as JAX's own exit does, since
    they may be waiting for it in a collective and learn from its end that it is lost; nor for what libraries still
    write to a full disk.

    Args:
      program: takes the command line, returns the status.
    """
    try:
        status = program(sys.argv)
    except Exception as error:
        if not jax.distributed.is_initialized():
            raise
        if _PEER_GONE.search(str(error)):
            print(_LOST, file=sys.stderr)
            status = RESUMABLE
        else:
            traceback.print_exc()
            status = 1
        _leave(status)
    if status not in (0, RESUMABLE):
        _leave(status)
    sys.exit(status)


def _leave(status: int) -> NoReturn:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def first() -> bool:
    """Whether this process is the one that writes."""
    return jax.process_index() == 0


def decide(value: bool) -> bool:
    """What process 0 says; waits for it."""
    return bool(multihost_utils.broadcast_one_to_all(np.asarray(value)))


def all_say(value: bool) -> bool:
    """Whether every process says so; waits for all."""
    return bool(np.all(multihost_utils.process_allgather(np.asarray(value))))


def all_have(value: bytes) -> bool:
    """Whether every process has the same 8 bytes; waits for all."""
    gathered = multihost_utils.process_allgather(np.frombuffer(value, np.uint32))
    return bool(np.all(gathered == gathered.reshape(-1, 2)[0]))


def agree(value: int, mesh: Mesh) -> jax.Array:
    """The largest of the processes' values, int32 on every device; not waited for."""
    if jax.process_count() == 1:
        return np.int32(value)  # type: ignore[return-value]
    own = np.full(mesh.local_mesh.devices.size, value, np.int32)
    laid = jax.make_array_from_process_local_data(dist.shardings(P(dist.AXIS), mesh), own)
    return _largest(mesh)(laid)


@functools.cache
def _largest(mesh: Mesh) -> Callable[[jax.Array], jax.Array]:
    return jax.jit(jnp.max, out_shardings=dist.shardings(P(), mesh))


class Stop:
    """Notes SIGTERM and SIGINT, and lets all processes of a run know of them after the same update.

    As a context manager it takes the signals' handlers and gives them back; a second SIGINT interrupts at once.

    Args:
      mesh: of the run.
    """

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh
        self._caught = 0
        self._asked: jax.Array | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Stop":
        self._before = {number: signal.signal(number, self._note) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: Any) -> None:
        del frame
        if number == signal.SIGINT:
            if self._caught:
                raise KeyboardInterrupt
            # Not print, which may be in the middle of a line.
            os.write(2, b"\nStopping after this update, with a checkpoint; Ctrl-C once more stops at once.\n")
        self._caught = number

    def now(self) -> int:
        """The signal that any process caught so far, or 0; waits for the others."""
        return int(agree(self._caught, self._mesh))

    def soon(self) -> int:
        """As `now`, but with several processes of the time of the last call, so that nobody waits for this update."""
        if jax.process_count() == 1:
            return self._caught
        asked, self._asked = self._asked, agree(self._caught, self._mesh)
        return 0 if asked is None else int(asked)
