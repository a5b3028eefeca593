# SPDX-License-Identifier: Apache-2.0
#   docker build -f deploy/docker/consumer.Dockerfile -t hookline-consumer .
#
# On the agent's base, so that a node which runs both keeps it once.

FROM debian:12.12-slim AS build
# hadolint ignore=DL3008  # Debian keeps only the newest version of a package
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3-venv \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /opt/hookline
COPY requirements.lock ./
RUN python3 -m venv .venv \
    && .venv/bin/pip install --no-cache-dir --no-deps --require-hashes --requirement requirements.lock
COPY LICENSE pyproject.toml ./
COPY LICENSES LICENSES
COPY schemas schemas
COPY service service
COPY consumer consumer
RUN .venv/bin/pip install --no-cache-dir --no-deps --no-build-isolation \
        --config-settings editable_mode=compat --editable . \
    && .venv/bin/pip uninstall --yes pyroute2 rich setuptools


FROM debian:12.12-slim
LABEL org.opencontainers.image.title="hookline-consumer" \
      org.opencontainers.image.description="Store what Hookline's agents publish in ClickHouse" \
      org.opencontainers.image.licenses="Apache-2.0"
# hadolint ignore=DL3008  # Debian keeps only the newest version of a package
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates python3 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --user-group --no-create-home hookline \
    && install --directory --owner hookline --group hookline /var/lib/hookline
COPY --from=build /opt/hookline /opt/hookline
WORKDIR /opt/hookline
USER 10001:10001
ENTRYPOINT ["/opt/hookline/.venv/bin/python", "-m", "consumer"]
