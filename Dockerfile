# The package and what it needs, for a CPU; or for CUDA, whose wheels are PyPI's own on Linux, and for other versions of
# it those of an index of https://download.pytorch.org/whl:
#
#   docker build -t seggen_hf .
#   docker run --rm -v "$PWD/runs:/work/runs" seggen_hf                                    # the quickstart
#   docker build -t seggen_hf:cuda --build-arg TORCH_INDEX=https://pypi.org/simple .
#   docker run --rm --gpus all -v "$PWD:/work" seggen_hf:cuda run mine.yaml
FROM python:3.11-slim

ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONUNBUFFERED=1

WORKDIR /opt/seggen_hf
# PyTorch first: the largest layer, which changes of the code leave as it is. -c: the versions that the tests ran with.
COPY constraints.txt ./
RUN pip install -c constraints.txt --index-url "$TORCH_INDEX" --extra-index-url https://pypi.org/simple torch
COPY . .
# Whoever `docker run --user` names can write in /work, and nothing is written but there and in /tmp.
RUN pip install -c constraints.txt . && mkdir -m 777 /work

WORKDIR /work
ENV HOME=/tmp HF_HOME=/tmp/huggingface
ENTRYPOINT ["seggen"]
CMD ["quickstart"]
