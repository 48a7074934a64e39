# docker build -t geovq .                          CPU
# docker build -t geovq --build-arg EXTRA=cuda12 . GPU; run it with --gpus=all
# docker run --rm -v "$PWD:/work" --user "$(id -u):$(id -g)" geovq run --config=mnist5k
FROM python:3.12-slim

ARG EXTRA=""
COPY pyproject.toml requirements.lock README.md LICENSE /source/
COPY geovq_jax /source/geovq_jax
COPY configs /source/configs
RUN pip install --no-cache-dir uv \
    && cd /source \
    && uv pip install --system --no-cache --constraints requirements.lock ".${EXTRA:+[$EXTRA]}" \
    && rm -r /source

# Caches of compiled kernels and of matplotlib, writable for whatever user runs the container.
ENV NUMBA_CACHE_DIR=/tmp/numba MPLCONFIGDIR=/tmp/matplotlib HOME=/tmp
WORKDIR /work
ENTRYPOINT ["geovq"]
CMD ["--help"]
