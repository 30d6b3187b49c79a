# A worker: models behind gRPC. Built from the repository's root:
#   docker build -f deploy/docker/worker.Dockerfile -t sonorant-worker:local .             CUDA, by PyPI's wheels of torch
#   docker build -f deploy/docker/worker.Dockerfile -t sonorant-worker:local-cpu \
#     --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cpu .                        some 5 GB less
# The wheels bring CUDA's libraries, and the host's container runtime its driver, so no CUDA image is needed below them.
FROM python:3.11.14-slim-bookworm AS wheel
WORKDIR /src
COPY constraints.txt ./
RUN pip install --no-cache-dir -c constraints.txt grpcio-tools mypy-protobuf googleapis-common-protos
COPY pyproject.toml README.md LICENSE ./
COPY gateway/ gateway/
COPY worker/ worker/
COPY protos/ protos/
COPY deploy/ deploy/
COPY web/ web/
RUN python -m protos.generate && pip wheel --no-cache-dir --no-deps -w /wheel .

# What is needed has a layer of its own, of gigabytes, which stays when only our code changes.
FROM python:3.11.14-slim-bookworm AS environment
# Families of models, as in pyproject.toml; `espeak` is GPL, and an image that is passed on with it falls under that.
ARG EXTRAS="torch kokoro"
# Index that is asked for torch beside PyPI: a build that it has of the same version is preferred.
ARG TORCH_INDEX=""
ARG KOKORO=0.9.4
WORKDIR /src
COPY constraints.txt pyproject.toml deploy/docker/requirements.py ./
# The package `kokoro` comes without what it lists: that includes GPL packages, and what is used, its extra brings.
RUN python -m venv /opt/sonorant \
 && python requirements.py worker otel ${EXTRAS} > requirements.txt \
 && PIP_EXTRA_INDEX_URL="${TORCH_INDEX}" \
    /opt/sonorant/bin/pip install --no-cache-dir -c constraints.txt -r requirements.txt \
 && case " ${EXTRAS} " in *" kokoro "*) \
      /opt/sonorant/bin/pip install --no-cache-dir --no-deps "kokoro==${KOKORO}" ;; esac

FROM python:3.11.14-slim-bookworm
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="sonorant-worker" \
      org.opencontainers.image.description="Self-hosted, OpenAI-compatible text-to-speech that streams: a worker" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.licenses="Apache-2.0"
# A number, since Kubernetes cannot tell of a name whether it is root's. /cache and /tmp are the only folders it writes
# to; the rest of the file system may be read-only.
RUN useradd --system --uid 10001 --user-group --no-create-home --home-dir /cache sonorant \
 && install -d -o 10001 -g 10001 /cache
COPY --from=environment /opt/sonorant/ /opt/sonorant/
RUN --mount=type=bind,from=wheel,source=/wheel,target=/wheel \
    /opt/sonorant/bin/pip install --no-cache-dir --no-deps --no-index /wheel/*.whl
# The driver's own compiled kernels and whatever a library keeps for itself are worth keeping with the models.
ENV PATH=/opt/sonorant/bin:$PATH \
    HOME=/cache \
    PYTHONDONTWRITEBYTECODE=1 \
    HF_HOME=/cache/huggingface \
    CUDA_CACHE_PATH=/cache/nv \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    SONORANT_LISTEN=0.0.0.0:50051 \
    SONORANT_METRICS_LISTEN=0.0.0.0:9090 \
    SONORANT_CACHE_DIR=/cache/sonorant \
    SONORANT_LOG_FORMAT=json
WORKDIR /opt/sonorant
USER 10001:10001
VOLUME ["/cache"]
EXPOSE 50051 9090
STOPSIGNAL SIGTERM
# Healthy once the models of SONORANT_PRELOAD are in memory; a first download takes its time.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30m CMD ["python", "-m", "deploy.healthcheck", "worker"]
CMD ["python", "-m", "worker"]
