# The gateway: HTTP in, gRPC out, and the console; no torch. Built from the repository's root:
#   docker build -f deploy/docker/gateway.Dockerfile -t sonorant-gateway:local .
# The interpreter is the one that the suite runs on.
FROM node:22.20.0-bookworm-slim AS console
WORKDIR /src/web
COPY web/package.json web/package-lock.json web/.npmrc ./
RUN npm ci
COPY web/ ./
RUN npx vite build

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
COPY --from=console /src/web/dist/ web/dist/
RUN python -m protos.generate && pip wheel --no-cache-dir --no-deps -w /wheel .

# What is needed has a layer of its own, which stays when only our code changes.
FROM python:3.11.14-slim-bookworm AS environment
WORKDIR /src
COPY constraints.txt pyproject.toml deploy/docker/requirements.py ./
RUN python -m venv /opt/sonorant \
 && python requirements.py gateway otel > requirements.txt \
 && /opt/sonorant/bin/pip install --no-cache-dir -c constraints.txt -r requirements.txt

FROM python:3.11.14-slim-bookworm
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="sonorant-gateway" \
      org.opencontainers.image.description="Self-hosted, OpenAI-compatible text-to-speech that streams: the gateway" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.licenses="Apache-2.0"
# A number, since Kubernetes cannot tell of a name whether it is root's. The folders are the only ones it writes to;
# the rest of the file system may be read-only.
RUN useradd --system --uid 10001 --user-group --no-create-home --home-dir /tmp sonorant \
 && install -d -o 10001 -g 10001 /cache /data
COPY --from=environment /opt/sonorant/ /opt/sonorant/
RUN --mount=type=bind,from=wheel,source=/wheel,target=/wheel \
    /opt/sonorant/bin/pip install --no-cache-dir --no-deps --no-index /wheel/*.whl
ENV PATH=/opt/sonorant/bin:$PATH \
    HOME=/tmp \
    PYTHONDONTWRITEBYTECODE=1 \
    HF_HOME=/cache/huggingface \
    SONORANT_HOST=0.0.0.0 \
    SONORANT_PORT=8000 \
    SONORANT_CACHE_DIR=/cache/sonorant \
    SONORANT_DATA_DIR=/data \
    SONORANT_LOG_FORMAT=json
WORKDIR /opt/sonorant
USER 10001:10001
VOLUME ["/cache", "/data"]
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s CMD ["python", "-m", "deploy.healthcheck", "gateway"]
CMD ["python", "-m", "gateway"]
