# detrscope on a CPU.  docker build -t detrscope .  &&  docker run --rm -v "$PWD:/work" detrscope
FROM python:3.12-slim

ENV PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_ROOT_USER_ACTION=ignore \
    MPLBACKEND=Agg

# numba's threads use GNU OpenMP, which the slim image lacks.
RUN apt-get update \
    && apt-get install -y --no-install-recommends libgomp1 \
    && rm -rf /var/lib/apt/lists/*

RUN pip install "torch>=2.9" "torchvision>=0.24"

COPY pyproject.toml README.md LICENSE /src/
COPY src /src/src
RUN pip install /src \
    && rm -rf /src

RUN useradd --create-home --uid 1000 user \
    && mkdir /work \
    && chown user /work
USER user
WORKDIR /work

ENTRYPOINT ["detrscope"]
CMD ["demo", "--out", "detrscope-demo"]
