"""Every tuner test runs on a decoder and an encoder, with both tuners."""

import pytest


@pytest.fixture(params=["llama", "bert"])
def kind(request) -> str:
    return request.param


@pytest.fixture(params=["mixture", "mixlora"])
def method(request) -> str:
    return request.param
