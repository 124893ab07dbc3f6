# The package and what it needs, for CUDA and CPU alike: PyTorch's common wheels for Linux run on both.
#
#   docker build -t seggen_hf .
#   docker run --rm -v "$PWD/runs:/work/runs" seggen_hf                                    # the quickstart
#   docker run --rm --gpus all -v "$PWD:/work" seggen_hf run mine.yaml
#
# Wheels of a CPU alone, gigabytes smaller, and those of another CUDA lie in indices of PyTorch's own, which pip takes:
#
#   docker build -t seggen_hf --build-arg PIP_EXTRA_INDEX_URL=ADDRESS .
FROM python:3.11-slim

ARG PIP_EXTRA_INDEX_URL
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONUNBUFFERED=1

WORKDIR /opt/seggen_hf
# PyTorch first: the largest layer, which changes of the code leave as it is. -c: the versions that the tests ran with.
COPY constraints.txt ./
RUN pip install -c constraints.txt torch
COPY . .
# Whoever `docker run --user` names can write in /work, and nothing is written but there and in /tmp.
RUN pip install -c constraints.txt . && mkdir -m 777 /work

WORKDIR /work
ENV HOME=/tmp HF_HOME=/tmp/huggingface
ENTRYPOINT ["seggen"]
CMD ["quickstart"]
