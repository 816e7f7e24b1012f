"""Serve a detector over HTTP: POST an image file, get its detections as JSON. See docs/deploy.md."""

import os
from threading import Lock
from typing import Annotated, Any

from fastapi import FastAPI, HTTPException, Query, UploadFile

import detrscope as ds
from detrscope.core.errors import UserError
from detrscope.data.image_reader import read_image
from detrscope.inference.image_detections import ImageDetections


def create_app() -> FastAPI:
    """Load the model that DETRSCOPE_MODEL names, once, and return the application."""
    if not (model := os.environ.get("DETRSCOPE_MODEL")):
        raise SystemExit("DETRSCOPE_MODEL: not set; expected an exported model (.onnx, .xml) or a checkpoint")
    try:
        detector = ds.load(model)
    except UserError as error:
        raise SystemExit(f"DETRSCOPE_MODEL: {error}") from None
    app, lock = FastAPI(title="detrscope"), Lock()

    @app.post("/detect")  # not async: FastAPI runs it in a thread, so that the event loop stays free
    def detect(image: UploadFile, threshold: Annotated[float, Query(ge=0, le=1)] = 0.7) -> dict[str, Any]:
        try:
            pixels = read_image(image.file.read())  # images are decoded in parallel
        except UserError as error:
            raise HTTPException(422, f"{image.filename}: {error}") from None
        with lock:  # an engine has one inference request: two calls at once would mix their results, or fail
            detections = detector.detect(pixels, threshold)
        return ImageDetections(image.filename or "", detections).to_json()

    return app
