# SPDX-License-Identifier: Apache-2.0
#   docker build -f deploy/docker/agent.Dockerfile -t hookline-agent .
#
# Debian 12, because bcc's Python bindings are built for the distribution's own interpreter.

FROM debian:12.12-slim AS build
# hadolint ignore=DL3008  # Debian keeps only the newest version of a package
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3-venv \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /opt/hookline
COPY requirements.lock ./
RUN python3 -m venv --system-site-packages .venv \
    && .venv/bin/pip install --no-cache-dir --no-deps --require-hashes --requirement requirements.lock
COPY LICENSE pyproject.toml ./
COPY LICENSES LICENSES
COPY schemas schemas
COPY service service
COPY bpf bpf
COPY agent agent
# The database engine alone is ten times the rest.
RUN .venv/bin/pip install --no-cache-dir --no-deps --no-build-isolation \
        --config-settings editable_mode=compat --editable . \
    && .venv/bin/pip uninstall --yes \
        chdb chdb-core clickhouse-connect pandas pyarrow rich setuptools


FROM debian:12.12-slim
LABEL org.opencontainers.image.title="hookline-agent" \
      org.opencontainers.image.description="Account every packet of a node and publish the flows to Kafka" \
      org.opencontainers.image.licenses="Apache-2.0"
# hadolint ignore=DL3008  # Debian keeps only the newest version of a package
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates libbpf1 python3 python3-bpfcc \
    && rm -rf /var/lib/apt/lists/*
COPY --from=build /opt/hookline /opt/hookline
WORKDIR /opt/hookline
# Root, for the pins under /sys/fs/bpf; compose.yaml leaves it three capabilities.
ENTRYPOINT ["/opt/hookline/.venv/bin/python", "-m", "agent"]
