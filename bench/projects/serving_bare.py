"""What uvicorn costs by itself: the body is read, and the answer is constant."""

ANSWER = b'{"model":"lateness","version":1,"predictions":[{"id":"0","prediction":false,"probability":0.5,"missing":[]}]}'
START = {
    "type": "http.response.start",
    "status": 200,
    "headers": [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(ANSWER))],
}
BODY = {"type": "http.response.body", "body": ANSWER}


async def app(scope, receive, send):
    """Answer every request alike."""
    del scope
    while (await receive()).get("more_body", False):
        pass
    await send(START)
    await send(BODY)
