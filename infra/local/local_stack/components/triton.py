"""NVIDIA Triton from its PyPI wheel, in an environment of its own, with the Python backend as the ONNX backend."""

import platform
from pathlib import Path

from local_stack.component import Component
from local_stack.dist import fetch_triton, site_packages, triton_folder
from local_stack.home import Home
from local_stack.ports import Ports
from local_stack.probes import Probe

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - where Linux keeps shared memory, not a scratch file
MIN_GLIBC = (2, 35)


def lacking() -> str | None:
    """Why the wheel cannot run here, or None."""
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        return f"Triton's wheel is for Linux on x86_64, this is {platform.system()} on {platform.machine()}"
    name, version = platform.libc_ver()
    if name != "glibc" or tuple(int(part) for part in version.split(".")[:2]) < MIN_GLIBC:
        return f"Triton's wheel needs glibc 2.35 or newer, this is {name or 'another libc'} {version}"
    return None


def triton(home: Home, ports: Ports, models: Path, *, prefix: str) -> Component:
    """The server over the repository `models`; `prefix` names its shared memory and must be this stack's own."""
    folder = triton_folder(home)
    site = site_packages(folder)

    def prepare() -> None:
        models.mkdir(parents=True, exist_ok=True)
        for left in SHARED_MEMORY.glob(f"{prefix}*"):  # a killed server leaves its regions
            left.unlink(missing_ok=True)

    return Component(
        name="triton",
        wave=1,
        command=[
            str(site / "pytriton" / "tritonserver" / "bin" / "tritonserver"),
            f"--model-repository={models}",
            f"--backend-directory={folder / 'backends'}",
            *("--model-control-mode=explicit", "--load-model=*", "--disable-auto-complete-config"),
            f"--backend-config=python,shm-region-prefix-name={prefix}",
            *("--grpc-http2-min-recv-ping-interval-without-data=900", "--grpc-keepalive-permit-without-calls=1"),
            *(f"--http-port={ports.triton_http}", f"--grpc-port={ports.triton_grpc}"),
            *(f"--metrics-port={ports.triton_metrics}", "--http-address=127.0.0.1", "--grpc-address=127.0.0.1"),
            "--metrics-address=127.0.0.1",
        ],
        ports={"http": ports.triton_http, "grpc": ports.triton_grpc, "metrics": ports.triton_metrics},
        probe=Probe("triton", f"127.0.0.1:{ports.triton_http}", str(models)),
        start_s=120,
        stop_s=30,
        environment=lambda: {"LD_LIBRARY_PATH": _libraries(folder, site), "MODEL_SITE": str(site)},
        download=folder,
        fetch=lambda: fetch_triton(home),
        prepare=prepare,
    )


def shared_memory_prefix(port: int) -> str:
    """The prefix of the stack whose Triton listens at `port` (gRPC)."""
    return f"millrace{port - Ports.triton_grpc}_"


def _libraries(folder: Path, site: Path) -> str:
    """Python's own library first: without it the backend's stub dies and the HTTP port never opens."""
    return f"{(folder / 'libdir').read_text()}:{site / 'nvidia_pytriton.libs'}"
