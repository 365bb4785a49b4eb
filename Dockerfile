# The locked environment with headless drawing, on a CPU:
#
#   docker build -t moto-jax .
#   docker run --rm -v "$PWD/runs:/moto/runs" moto-jax make demo
#
# On an NVIDIA GPU (the container toolkit on the host, drawing by the driver's EGL):
#
#   docker build -t moto-jax --build-arg EXTRA='jax[cuda13]' .
#   docker run --rm --gpus all -e NVIDIA_DRIVER_CAPABILITIES=all -v "$PWD/runs:/moto/runs" \
#     moto-jax make kitchen
FROM python:3.11-slim-bookworm

RUN apt-get update -qq \
  && apt-get install -y -qq --no-install-recommends \
    git libegl1 libegl-mesa0 libgl1-mesa-dri make \
  && rm -rf /var/lib/apt/lists/*

WORKDIR /moto
# The environment changes with the lock alone.
COPY Makefile pyproject.toml requirements.lock README.md LICENSE ./
COPY moto_jax/__init__.py moto_jax/
COPY experiments/__init__.py experiments/
COPY launch/__init__.py launch/
RUN make install
ARG EXTRA=
RUN if [ -n "$EXTRA" ]; then \
    version=$(.venv/bin/python -c "import jax; print(jax.__version__)") \
    && .venv/bin/python -m pip install --quiet "$EXTRA==$version"; \
  fi
COPY . .

CMD ["make", "watch"]
