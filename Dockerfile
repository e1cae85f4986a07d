FROM python:3.12-slim

RUN useradd --create-home --uid 10001 automl \
    && install --directory --owner automl /artifacts
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY automl_prune automl_prune
COPY studies studies
COPY dashboards dashboards
RUN pip install --no-cache-dir '.[dashboard,onnx]' && rm -rf /src/*

USER automl
WORKDIR /home/automl
ENTRYPOINT ["automl-prune"]
CMD ["--help"]
