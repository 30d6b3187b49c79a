"""A stand-in for grpcurl, which `make` cannot install: its flags, and like it nothing but reflection.

python -m tests.grpcurl -plaintext localhost:50051 list
"""

from __future__ import annotations

import argparse
import json
import sys

import grpc
from google.protobuf import json_format
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from protos.channel import open_channel
from protos.tls import Tls


def main() -> None:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("-plaintext", action="store_true")
    for flag in ("-cacert", "-cert", "-key", "-authority", "-H", "-d"):
        parser.add_argument(flag, default="")
    parser.add_argument("address")
    parser.add_argument("what", nargs="+")
    given = parser.parse_args()
    tls = None if given.plaintext else Tls(given.cacert, given.cert, given.key, given.authority)
    name, _, token = given.H.partition(": Bearer ")
    assert name in ("", "authorization")
    with open_channel(given.address, tls, token) as channel:
        known = ProtoReflectionDescriptorDatabase(channel)
        match given.what:
            case ["list"]:
                print("\n".join(known.get_services()))
            case ["describe", symbol]:
                for field in DescriptorPool(known).FindMessageTypeByName(symbol).fields:
                    print(field.number, field.name)
            case [method]:
                call(channel, DescriptorPool(known), method, given.d or "{}")


def call(channel: grpc.Channel, pool: DescriptorPool, method: str, body: str) -> None:
    service, _, name = method.partition("/")
    found = pool.FindServiceByName(service).methods_by_name[name]
    request = json_format.ParseDict(json.loads(body), GetMessageClass(found.input_type)())
    kind = channel.unary_stream if found.server_streaming else channel.unary_unary
    make = kind(f"/{method}", type(request).SerializeToString, GetMessageClass(found.output_type).FromString)
    answer = make(request)
    for message in answer if found.server_streaming else [answer]:
        print(json_format.MessageToJson(message))


if __name__ == "__main__":
    try:
        main()
    except grpc.RpcError as error:
        sys.exit(f"{error.code().name}: {error.details()}")
