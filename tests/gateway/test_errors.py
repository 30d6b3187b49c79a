from gateway.errors import TABLE, ApiError
from protos.tts.v1 import errors_pb2
from worker import errors as worker_errors
from worker.errors import WorkerError


def reasons_of_the_contract() -> set[str]:
    names = errors_pb2.ErrorReason.DESCRIPTOR.values_by_name
    return {name.removeprefix("ERROR_REASON_") for name in names} - {"UNSPECIFIED"}


def worker_error_classes() -> list[type[WorkerError]]:
    classes = [
        each for each in vars(worker_errors).values() if isinstance(each, type) and issubclass(each, WorkerError)
    ]
    return [each for each in classes if each is not WorkerError]


def test_the_table_knows_every_reason_of_the_contract_and_the_rest_is_the_gateways_own():
    from_workers = {reason for reason, form in TABLE.items() if form.grpc_code}
    assert from_workers == reasons_of_the_contract()


def test_every_worker_error_is_in_the_contract_and_travels_by_the_tables_code():
    classes = worker_error_classes()
    assert {each.reason for each in classes} == reasons_of_the_contract()
    for each in classes:
        assert TABLE[each.reason].grpc_code == each.code, each


def test_an_error_quotes_broken_unicode_without_breaking():
    response = ApiError("INVALID_REQUEST", "got \ud800", param="input").response()
    assert b'"message": "got ?"' in response.body  # Strict parsers refuse half a pair, also as an escape.


def test_retry_after_is_whole_seconds_and_never_zero():
    assert ApiError("OVERLOADED", "full", retry_after_s=0.2).response().headers["retry-after"] == "1"
    assert ApiError("OVERLOADED", "full", retry_after_s=2.1).response().headers["retry-after"] == "3"
