# haiftrace on CPUs. docker build -t haiftrace . && docker run --rm -v "$PWD:/work" haiftrace --help

FROM python:3.11.13-slim-bookworm AS build
WORKDIR /src
COPY constraints.txt ./
# torch first, and from where no build has CUDA: what comes after finds it there.
RUN python -m venv /opt/haiftrace \
    && /opt/haiftrace/bin/pip install --no-cache-dir "$(grep '^torch==' constraints.txt)" \
       --index-url https://download.pytorch.org/whl/cpu
COPY pyproject.toml README.md LICENSE ./
COPY haiftrace ./haiftrace
RUN /opt/haiftrace/bin/pip install --no-cache-dir -c constraints.txt .

FROM python:3.11.13-slim-bookworm
LABEL org.opencontainers.image.title="haiftrace" \
      org.opencontainers.image.licenses="Apache-2.0"
RUN useradd --uid 1000 --create-home haiftrace \
    && install -d -o haiftrace -g haiftrace /work
COPY --from=build /opt/haiftrace /opt/haiftrace
# A checkpoint is a directory: nothing is asked of a hub.
ENV PATH="/opt/haiftrace/bin:$PATH" \
    HF_HUB_OFFLINE=1 \
    PYTHONDONTWRITEBYTECODE=1
USER 1000:1000
WORKDIR /work
ENTRYPOINT ["haiftrace"]
CMD ["--help"]
