# syntax=docker/dockerfile:1
# One image for each service: docker build --target gateway|scheduler|worker .
# The gateway and the scheduler never contain torch.

FROM python:3.11-slim-bookworm AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/podium
ENV PATH=/opt/podium/bin:$PATH
WORKDIR /src
COPY constraints.txt .
RUN pip install -c constraints.txt --upgrade pip setuptools hatchling
COPY libs/contracts libs/contracts
COPY libs/runtime libs/runtime
RUN pip install -c constraints.txt --no-build-isolation ./libs/contracts ./libs/runtime

FROM build AS build-gateway
COPY services/gateway services/gateway
RUN pip install -c constraints.txt --no-build-isolation ./services/gateway

FROM build AS build-scheduler
COPY services/scheduler services/scheduler
RUN pip install -c constraints.txt --no-build-isolation ./services/scheduler

FROM build AS build-worker
# The default torch carries CUDA. For a CPU-only image: --build-arg TORCH_INDEX=<the index of torch's CPU builds>
ARG TORCH=torch==2.13.0
ARG TORCH_INDEX=
RUN pip install -c constraints.txt ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} "$TORCH"
COPY services/worker services/worker
RUN pip install -c constraints.txt --no-build-isolation './services/worker[torch,images,s3,minilm]'

FROM python:3.11-slim-bookworm AS run
RUN useradd --system --uid 10001 --create-home podium
ENV PATH=/opt/podium/bin:$PATH PYTHONUNBUFFERED=1 PODIUM_METRICS_LISTEN=0.0.0.0:9090
USER podium
WORKDIR /home/podium
EXPOSE 9090
STOPSIGNAL SIGTERM

FROM run AS gateway
COPY --from=build-gateway /opt/podium /opt/podium
ENV PODIUM_GATEWAY_LISTEN=0.0.0.0:50051 PODIUM_GATEWAY_HTTP_LISTEN=0.0.0.0:8080
EXPOSE 50051 8080
HEALTHCHECK --interval=5s --timeout=5s --start-period=20s CMD ["python", "-m", "podium_runtime.health_check", "localhost:50051"]
ENTRYPOINT ["python", "-m", "podium_gateway"]

FROM run AS scheduler
COPY --from=build-scheduler /opt/podium /opt/podium
ENV PODIUM_SCHEDULER_LISTEN=0.0.0.0:50052
EXPOSE 50052
HEALTHCHECK --interval=5s --timeout=5s --start-period=20s CMD ["python", "-m", "podium_runtime.health_check", "localhost:50052"]
ENTRYPOINT ["python", "-m", "podium_scheduler"]

FROM run AS worker
COPY --from=build-worker /opt/podium /opt/podium
ENTRYPOINT ["python", "-m", "podium_worker"]

# Optional: the models of a registry inside the image, verified, so that its workers start without any hub.
#   docker build --target worker-with-models --build-arg MODELS="minilm clip-vit-b-32" .
FROM scheduler AS registry
RUN python -m podium_scheduler registry > /tmp/registry.json

FROM worker AS worker-with-models
ARG MODELS=
ENV HF_HOME=/home/podium/models
COPY --from=registry /tmp/registry.json /tmp/registry.json
RUN python -m podium_worker prefetch $MODELS < /tmp/registry.json
ENV HF_HUB_OFFLINE=1
