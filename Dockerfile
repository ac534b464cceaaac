# One image for all of Gatehouse: what runs is an argument, such as `serve users` or `migrate`.
ARG PYTHON_VERSION=3.13-slim-bookworm

FROM python:${PYTHON_VERSION} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /src
COPY requirements/build.txt requirements/runtime.txt requirements/
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install --quiet --require-hashes --only-binary :all: -r requirements/build.txt \
 && python -m venv --without-pip /opt/gatehouse \
 && pip --python /opt/gatehouse/bin/python install --quiet --no-compile \
      --require-hashes --only-binary :all: -r requirements/runtime.txt
COPY pyproject.toml README.md LICENSE ./
COPY services services
COPY migrations migrations
COPY keycloak/gatehouse-realm.json keycloak/
COPY examples/users.csv examples/
# Bytecode is made here, since nothing can be written later; its content does not depend on the time.
RUN pip wheel --quiet --no-deps --no-index --no-build-isolation --wheel-dir /dist . \
 && pip --python /opt/gatehouse/bin/python install --quiet --no-compile --no-deps --no-index /dist/*.whl \
 && /opt/gatehouse/bin/python -m compileall -q --invalidation-mode unchecked-hash /opt/gatehouse/lib

FROM python:${PYTHON_VERSION}
# Packages are installed above and never here.
RUN rm -rf /usr/local/bin/pip* /usr/local/bin/idle* /usr/local/bin/pydoc* /usr/local/bin/python*-config \
      /usr/local/lib/python3.*/site-packages/* /usr/local/lib/python3.*/ensurepip \
 && groupadd --gid 10001 gatehouse \
 && useradd --uid 10001 --gid gatehouse --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin gatehouse
COPY --from=build /opt/gatehouse /opt/gatehouse
ENV PATH=/opt/gatehouse/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
ARG VERSION=0.1.0
ARG REVISION=
LABEL org.opencontainers.image.title="Gatehouse" \
      org.opencontainers.image.description="Reference microservice application for OAuth2 authorization in gRPC" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
USER 10001:10001
EXPOSE 50051 50052 50053 9464
HEALTHCHECK --interval=10s --timeout=10s --start-period=30s --retries=3 CMD ["gatehouse", "healthcheck"]
ENTRYPOINT ["gatehouse"]
CMD ["--help"]
