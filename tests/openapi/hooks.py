"""What schemathesis has to be told of our media types. It is imported by schemathesis alone."""

import json

import schemathesis


@schemathesis.serializer("application/x-ndjson")
def lines(ctx, value):
    """Lines of JSON as they are; all else as one such line."""
    try:
        for line in value.splitlines():
            json.loads(line)
    except (AttributeError, ValueError):
        return json.dumps(value).encode()
    return value.encode() or b"{}"


@schemathesis.deserializer("application/octet-stream")
def octets(ctx, response):
    """Bytes are not looked into."""
    return None
