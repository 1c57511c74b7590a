# The build stage installs the locked libraries, hash by hash, and the project from its source.
FROM python:3.11-slim AS build

ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
RUN python -m venv /opt/tocsin
WORKDIR /source
COPY requirements.lock ./
RUN /opt/tocsin/bin/pip install --require-hashes --only-binary :all: -r requirements.lock
COPY pyproject.toml README.md LICENSE ./
COPY rules rules
COPY notifiers notifiers
COPY streams streams
COPY runbooks runbooks
RUN /opt/tocsin/bin/pip install --no-deps --no-build-isolation .


FROM python:3.11-slim

RUN useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin tocsin
COPY --from=build /opt/tocsin /opt/tocsin
ENV PATH=/opt/tocsin/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
# The worker keeps its state in Kafka; this folder is for what Faust writes beside it.
WORKDIR /var/lib/tocsin
RUN chown tocsin /var/lib/tocsin
USER tocsin
ENTRYPOINT ["tocsin"]
CMD ["worker", "--config", "/etc/tocsin/tocsin.yaml"]
