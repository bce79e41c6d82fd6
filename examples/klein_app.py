"""A web application of one's own that hands work to zpipeline's workers.

Run it, in this directory, with a worker or two::

    twistd -n --python klein_app.py
    twistd -n zpipe-worker --port 4444
    curl --data-binary @photo.jpg http://127.0.0.1:8080/photos
"""

from klein import Klein
from twisted.application.internet import StreamServerEndpointService
from twisted.application.service import Application
from twisted.internet import reactor
from twisted.internet.endpoints import serverFromString
from twisted.web.server import Site

from zpipeline import Pipeline, Refused, TooLarge

app = Klein()
pipeline = Pipeline(reactor, workers=["tcp://127.0.0.1:4444", "tcp://127.0.0.1:4445"], journal="photos.sqlite")


@app.route("/photos", methods=["POST"])
async def upload(request):
    """Have a worker see to the photo, and answer at once."""
    try:
        job_id = await pipeline.push(request.content.read(), {"x-user": "ada"})
    except Refused as why:
        request.setResponseCode(413 if isinstance(why, TooLarge) else 503)
        return f"{why}\n"
    request.setResponseCode(202)
    return f"{job_id}\n"


@app.route("/photos/<job_id>")
async def state(request, job_id):
    """What became of it."""
    status = await pipeline.job(job_id)
    if status is None:
        request.setResponseCode(404)
        return "no such photo\n"
    return f"{status.state}\n"


application = Application("photos")
pipeline.setServiceParent(application)
endpoint = serverFromString(reactor, "tcp:8080:interface=127.0.0.1")
StreamServerEndpointService(endpoint, Site(app.resource())).setServiceParent(application)
