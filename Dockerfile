# CoTAP with everything that users need: pre-training, segmentation, detection, viewer, export.
#
#   docker build -t cotap .                                      # CPU
#   docker build -t cotap --build-arg COMPUTE=cu130 .            # NVIDIA GPUs
#   docker run --rm -it --gpus all --shm-size=8g -v "$PWD:/work" cotap doctor
#   docker run --rm -it --gpus all --shm-size=8g -v "$PWD:/work" cotap train vits_folder --images DIR
#
# Runs write to /work as the user with number UID (--build-arg UID=$(id -u), 1000 by default). Nothing is
# compiled: MMCV's operators come from cotap_mm (docs/operators.md).
ARG PYTHON=3.11

FROM python:${PYTHON}-slim-bookworm AS base
ARG UID=1000
# Shared libraries of OpenCV.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends libgl1 libglib2.0-0 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid "${UID}" cotap \
    && install -d -o cotap -g cotap /opt/cotap /opt/source /work
USER cotap
ENV PATH=/opt/cotap/bin:$PATH \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PYTHONUNBUFFERED=1 \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
RUN python -m venv /opt/cotap
# cpu, or a version of CUDA for which PyTorch has builds, such as cu130.
ARG COMPUTE=cpu
ARG TORCH=2.11.0
ARG TORCHVISION=0.26.0
RUN pip install --index-url "https://download.pytorch.org/whl/${COMPUTE}" \
    "torch==${TORCH}" "torchvision==${TORCHVISION}"
WORKDIR /opt/source
COPY --chown=cotap requirements/ requirements/
RUN pip install -r requirements/runtime.txt -r requirements/mminstall.txt \
    -r requirements/mmseg.txt -r requirements/mmdet.txt -r requirements/pack.txt \
    -r requirements/viewer.txt "mmcv-lite>=2.1.0,<2.2.0" timm safetensors onnx faiss-cpu

# For .devcontainer: what the tests need; the source is mounted and installed when it starts.
FROM base AS dev
USER root
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends git make \
    && rm -rf /var/lib/apt/lists/*
USER cotap
RUN pip install -r requirements/tests.txt pre-commit
WORKDIR /work

FROM base AS runtime
COPY --chown=cotap setup.py pyproject.toml MANIFEST.in README.md LICENSE ./
COPY --chown=cotap configs/ configs/
COPY --chown=cotap tools/ tools/
COPY --chown=cotap cotap_mm/ cotap_mm/
RUN pip install --no-deps . && cotap doctor
WORKDIR /work
ENTRYPOINT ["cotap"]
CMD ["--help"]
