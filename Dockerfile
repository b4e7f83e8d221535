# docker build -t fine-tuning-course .
# docker run --rm -p 8888:8888 --env-file .env -v "$PWD/runs:/home/learner/course/runs" fine-tuning-course
# Add --gpus all on a machine with an NVIDIA card, after building with --build-arg TORCH_INDEX_URL=
FROM python:3.12-slim

LABEL org.opencontainers.image.licenses=Apache-2.0
LABEL org.opencontainers.image.source=https://github.com/fine-tuning-course/fine-tuning-course

# make for the targets of the Makefile, libgomp1 for the libraries that compute in parallel.
RUN apt-get update \
    && apt-get install -y --no-install-recommends git libgomp1 make \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home learner

USER learner
WORKDIR /home/learner/course
# An environment of its own, because the user may not write into the image's Python.
ENV VENV=/home/learner/venv PATH=/home/learner/venv/bin:$PATH PIP_NO_CACHE_DIR=1
ARG TORCH_INDEX_URL=https://download.pytorch.org/whl/cpu

COPY --chown=learner . .
RUN bash 00-set_up/install.sh && mkdir -p runs

EXPOSE 8888
CMD ["jupyter", "lab", "--ip=0.0.0.0", "--no-browser"]
