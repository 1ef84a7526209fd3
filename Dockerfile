# syntax=docker/dockerfile:1
#
#   docker build -t switchyard:0.1.0 .
#   docker build -t switchyard:0.1.0-mistralrs --build-arg VARIANT=mistralrs .
#   docker build -t switchyard:0.1.0-cuda --build-arg VARIANT=cuda --build-arg CUDA_COMPUTE_CAP=90 .
#   docker buildx build --platform linux/arm64 -t switchyard:0.1.0-arm64 .
#
# The first can be run step by step in a clean Debian root by tests/container/by_hand.py; docs/deploying.md says what of it has been. The
# second is the same with one more feature (docs/backends.md) and has not been built. The third needs NVIDIA's images and has not been built. The fourth is the
# same recipe as the first on another platform, natively or under emulation, and has not been built either.

# cpu, mistralrs or cuda.
ARG VARIANT=cpu
ARG RUST_VERSION=1.95.0

FROM rust:${RUST_VERSION}-bookworm AS toolchain-cpu
ENV FEATURES=""

FROM toolchain-cpu AS toolchain-mistralrs
ENV FEATURES="mistralrs"

FROM nvidia/cuda:13.0.1-devel-ubuntu24.04 AS toolchain-cuda
ARG RUST_VERSION
# 80 for A100, 86 for A5000, 89 for L40S and RTX 4090, 90 for H100 and H200.
ARG CUDA_COMPUTE_CAP=90
ENV FEATURES="cuda" CUDA_COMPUTE_CAP=${CUDA_COMPUTE_CAP} RUSTUP_HOME=/usr/local/rustup CARGO_HOME=/usr/local/cargo \
    PATH=/usr/local/cargo/bin:/usr/local/cuda/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
RUN apt-get update && apt-get install -y --no-install-recommends build-essential ca-certificates curl
RUN curl --proto '=https' -sSf https://sh.rustup.rs | sh -s -- -y --profile minimal --default-toolchain ${RUST_VERSION}

FROM toolchain-${VARIANT} AS build
WORKDIR /src
COPY Cargo.toml Cargo.lock ./
COPY src src
COPY loadtests/loadtest loadtests/loadtest
# For the records of trainings (docs/strategy.md): --build-arg GIT_COMMIT=$(git rev-parse HEAD)
ARG GIT_COMMIT=
# Without lines of sources: names of functions stay for backtraces.
ENV CARGO_PROFILE_RELEASE_DEBUG=none CARGO_PROFILE_RELEASE_STRIP=debuginfo
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/src/target \
    cargo build --locked --release --bin switchyard --features "${FEATURES}" && \
    install -D -m 755 target/release/switchyard /out/switchyard

# The whole tree of the small image: the binary, the libraries that it names, certificates, a user, the bundled base and its adapters.
FROM build AS tree
COPY LICENSE-MIT LICENSE-APACHE /tree/opt/switchyard/
COPY models/switchyard-base-q8_0.gguf /tree/opt/switchyard/models/switchyard-base-q8_0.gguf
COPY adapters /tree/opt/switchyard/adapters
RUN install -m 755 /out/switchyard /tree/opt/switchyard/switchyard && \
    ldd /out/switchyard | grep -o '/[^ ]*' | while read -r library; do install -D -m 755 "$library" "/tree$library"; done && \
    install -D -m 644 /etc/ssl/certs/ca-certificates.crt /tree/etc/ssl/certs/ca-certificates.crt && \
    echo 'switchyard:x:65532:65532::/var/lib/switchyard:/sbin/nologin' > /tree/etc/passwd && \
    echo 'switchyard:x:65532:' > /tree/etc/group && \
    install -d -m 1777 /tree/tmp && \
    chmod -R a+rX /tree/opt && \
    install -d /state/switchyard

FROM scratch AS image-cpu
COPY --from=tree /tree/ /

FROM image-cpu AS image-mistralrs

# CUDA's libraries are in NVIDIA's image; the driver comes from the node.
FROM nvidia/cuda:13.0.1-runtime-ubuntu24.04 AS image-cuda
COPY --from=tree /tree/opt/ /opt/
COPY --from=tree /tree/etc/ssl/certs/ /etc/ssl/certs/

FROM image-${VARIANT}
COPY --from=tree --chown=65532:65532 /state/ /var/lib/
# A directory of its own for the data, as the root of a volume may hold what is not ours (lost+found).
ENV SWITCHYARD_LISTEN=0.0.0.0:8080 SWITCHYARD_DATA_DIR=/var/lib/switchyard/data HOME=/var/lib/switchyard \
    HF_HOME=/var/lib/switchyard/hub
WORKDIR /opt/switchyard
USER 65532:65532
EXPOSE 8080
VOLUME /var/lib/switchyard
# Healthy when it answers; a large base takes a while to load.
HEALTHCHECK --interval=10s --timeout=5s --start-period=10m --retries=6 CMD ["/opt/switchyard/switchyard", "health"]
ENTRYPOINT ["/opt/switchyard/switchyard"]
CMD ["serve"]
