# All images, from the checkout's root:
#   a service:     docker build --target service --build-arg MEMBER=gateway -t millrace/gateway .
#   the commands:  docker build --target pipelines --build-arg MEMBER=cli -t millrace/pipelines .
# Offline: --build-arg BASE_IMAGE=..., PIP_NO_INDEX=1, PIP_FIND_LINKS=/wheels, and mount the wheels there.
ARG BASE_IMAGE=python:3.11-slim-bookworm

# What the image needs: third parties with their hashes from the lock, our own members as wheels.
FROM ${BASE_IMAGE} AS lock
ARG PIP_NO_INDEX
ARG PIP_FIND_LINKS
ARG MEMBER
RUN python3 -m venv /opt/uv && /opt/uv/bin/pip install --no-cache-dir --disable-pip-version-check 'uv>=0.9,<0.14'
WORKDIR /src
COPY . .
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
RUN /opt/uv/bin/uv export --quiet --offline --frozen --no-dev --no-emit-workspace --package "millrace-${MEMBER:?}" \
      --output-file /out/requirements.txt \
    && /opt/uv/bin/uv export --quiet --offline --frozen --no-dev --no-hashes --package "millrace-${MEMBER}" \
      | sed -n 's/^-e //p' > /out/members.txt \
    && while read -r member; do \
      /opt/uv/bin/uv build --quiet --offline --wheel --out-dir /out/wheels "$member" || exit 1; \
    done < /out/members.txt

# Third parties first: a change of ours leaves their layer as it is. Then the kernels, for what all nodes' processors can
# do: compiled for the builder's own they would be compiled again on any other, 45 s at each start.
FROM ${BASE_IMAGE} AS build
ARG PIP_NO_INDEX
ARG PIP_FIND_LINKS
ARG NUMBA_CPU_NAME=x86-64-v3
RUN python3 -m venv /opt/venv
COPY --from=lock /out/requirements.txt /out/requirements.txt
RUN /opt/venv/bin/pip install --no-cache-dir --disable-pip-version-check --require-hashes -r /out/requirements.txt
COPY --from=lock /out/wheels /out/wheels
RUN /opt/venv/bin/pip install --no-cache-dir --disable-pip-version-check --no-index --no-deps /out/wheels/*.whl
ENV NUMBA_CACHE_DIR=/opt/kernels
RUN mkdir /opt/kernels \
    && if /opt/venv/bin/python -c 'import numba' 2>/dev/null; then \
      /opt/venv/bin/python -m definitions.compile && /opt/venv/bin/python -m servicekit.kafka.compile; \
    fi

FROM ${BASE_IMAGE} AS runtime
ARG NUMBA_CPU_NAME=x86-64-v3
LABEL org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /opt/venv /opt/venv
COPY --from=build /opt/kernels /opt/kernels
WORKDIR /app
COPY infra/images/start start
COPY usecases usecases
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    NUMBA_CPU_NAME=$NUMBA_CPU_NAME \
    NUMBA_CACHE_DIR=/tmp/kernels \
    HOME=/tmp \
    MILLRACE_HOME=/tmp/millrace
STOPSIGNAL SIGTERM
ENTRYPOINT ["/app/start"]

FROM runtime AS pipelines
LABEL org.opencontainers.image.title="millrace-pipelines"
# LightGBM needs the system's OpenMP; a base that has it needs no network here.
# hadolint ignore=DL3008
RUN dpkg -s libgomp1 >/dev/null 2>&1 \
    || { apt-get update && apt-get install -y --no-install-recommends libgomp1 && rm -rf /var/lib/apt/lists/*; }
COPY infra/kafka infra/kafka
COPY infra/triton infra/triton
COPY libs/stores/stores/batch/schema.cql infra/cassandra/schema.cql
ENV PROCESS=millrace
USER 10001:10001

FROM runtime AS service
ARG MEMBER
LABEL org.opencontainers.image.title="millrace-${MEMBER}"
ENV PROCESS="python -m ${MEMBER}"
USER 10001:10001
