"""Tracing at the gateway while it is off: nothing is made and nothing is passed on."""

from gateway import tracing


def test_nothing_is_made_while_it_is_off():
    assert not tracing.is_on()
    scope = {"path": "/v1/audio/speech", "method": "POST"}
    assert tracing.request(scope, {"traceparent": f"00-{'a' * 32}-{'b' * 16}-01"}, "id") is None
    assert tracing.turn(1) is None
    tracing.event("first audio", ttfa_ms=1.0)
    assert tracing.attempt(lambda metadata: metadata, "127.0.0.1:1", 0) is None
    tracing.end()
