# syntax=docker/dockerfile:1
# The engine for hosts without a GPU: vLLM's CPU build (x86-64 with AVX-512), the versions the tests run with.
#   docker build -f deploy/engine-cpu.Dockerfile -t zephyra-engine-cpu .
ARG PYTHON=3.11.14-slim-bookworm

FROM python:${PYTHON} AS build
RUN pip install --no-cache-dir uv==0.13.9
COPY deploy/locks/engine-cpu.txt /source/
# torch's CPU wheel is on PyTorch's own index only; that index is asked for nothing else.
RUN uv venv -q /opt/engine \
    && uv pip install --python /opt/engine/bin/python --no-deps --no-cache \
        --index-url https://download.pytorch.org/whl/cpu torch==2.13.0+cpu \
    && uv pip install --python /opt/engine/bin/python --no-deps --no-cache -r /source/engine-cpu.txt

FROM python:${PYTHON}
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends libgomp1 libnuma1 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 10002 --create-home engine
COPY --from=build /opt/engine /opt/engine
ENV PATH=/opt/engine/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    VLLM_CPU_OMP_THREADS_BIND=nobind
USER 10002:10002
WORKDIR /home/engine
EXPOSE 8000
ENTRYPOINT ["python", "-m", "vllm.entrypoints.openai.api_server"]
