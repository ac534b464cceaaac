# Targets: `runtime`, the default, has what production needs and nothing else; `testbed` adds the test bed.
# <part console>
# `console` adds the web console.
# </part console>
# What runs is an argument, such as `serve users` or `migrate`.
ARG PYTHON_VERSION=3.13-slim-bookworm

# Dependencies come before code, so that a change of code reuses their layers.
FROM python:${PYTHON_VERSION} AS dependencies
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /src
COPY requirements/build.txt requirements/runtime.txt requirements/
# Bytecode is compiled now because nothing can be written later; its content does not depend on the time.
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install --quiet --require-hashes --only-binary :all: -r requirements/build.txt \
 && python -m venv --without-pip /opt/gatehouse \
 && pip --python /opt/gatehouse/bin/python install --quiet --no-compile \
      --require-hashes --only-binary :all: -r requirements/runtime.txt \
 && /opt/gatehouse/bin/python -m compileall -q --invalidation-mode unchecked-hash /opt/gatehouse/lib

# <part console>
FROM dependencies AS console-dependencies
COPY requirements/console.txt requirements/
RUN --mount=type=cache,target=/root/.cache/pip \
    pip --python /opt/gatehouse/bin/python install --quiet --no-compile --prefix /overlay \
      --require-hashes --only-binary :all: -r requirements/console.txt \
 && python -m compileall -q --invalidation-mode unchecked-hash -s /overlay -p /opt/gatehouse /overlay

# </part console>
FROM dependencies AS testbed-dependencies
COPY requirements/testbed.txt requirements/
RUN --mount=type=cache,target=/root/.cache/pip \
    pip --python /opt/gatehouse/bin/python install --quiet --no-compile --prefix /overlay \
      --require-hashes --only-binary :all: -r requirements/testbed.txt \
 && python -m compileall -q --invalidation-mode unchecked-hash -s /overlay -p /opt/gatehouse /overlay

FROM dependencies AS sources
COPY pyproject.toml README.md LICENSE ./
COPY tools/build_overlay.sh tools/
COPY services/buf services/buf
COPY services/gatehouse services/gatehouse
COPY migrations migrations

FROM sources AS build
RUN sh tools/build_overlay.sh

# <part console>
FROM sources AS console-build
COPY services/gatehouse_console services/gatehouse_console
RUN sh tools/build_overlay.sh

# </part console>
FROM sources AS testbed-build
COPY services services
COPY keycloak/gatehouse-realm.json keycloak/
COPY examples/users.csv examples/
RUN sh tools/build_overlay.sh

FROM python:${PYTHON_VERSION} AS base
# Packages are installed above, never here.
RUN rm -rf /usr/local/bin/pip* /usr/local/bin/idle* /usr/local/bin/pydoc* /usr/local/bin/python*-config \
      /usr/local/lib/python3.*/site-packages/* /usr/local/lib/python3.*/ensurepip \
 && groupadd --gid 10001 gatehouse \
 && useradd --uid 10001 --gid gatehouse --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin gatehouse
ENV PATH=/opt/gatehouse/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
HEALTHCHECK --interval=10s --timeout=10s --start-period=30s --retries=3 CMD ["gatehouse", "healthcheck"]
ENTRYPOINT ["gatehouse"]
CMD ["--help"]

FROM base AS testbed
COPY --from=dependencies /opt/gatehouse /opt/gatehouse
COPY --from=testbed-dependencies /overlay /opt/gatehouse
COPY --from=testbed-build /overlay /opt/gatehouse
# The control API answers when everything runs.
HEALTHCHECK --interval=3s --timeout=10s --start-period=1m --retries=3 \
  CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8081/clock', timeout=5)"]
CMD ["testbed", "--host", "0.0.0.0", "--default-ports"]

# <part console>
FROM base AS console
COPY --from=dependencies /opt/gatehouse /opt/gatehouse
COPY --from=console-dependencies /overlay /opt/gatehouse
COPY --from=console-build /overlay /opt/gatehouse
HEALTHCHECK --interval=3s --timeout=10s --start-period=1m --retries=3 \
  CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8090/health', timeout=5)"]
CMD ["console"]

# </part console>
FROM base AS runtime
COPY --from=dependencies /opt/gatehouse /opt/gatehouse
COPY --from=build /overlay /opt/gatehouse
ARG VERSION=0.1.0
ARG REVISION=
LABEL org.opencontainers.image.title="Gatehouse" \
      org.opencontainers.image.description="Reference microservice application for OAuth2 authorization in gRPC" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
