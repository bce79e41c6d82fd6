"""An application with a pipeline of its own, whose only route waits for what comes of a job.

Usage: embedded.py PORT PORT_OF_WORKER.

The process ends as soon as the pipeline has stopped: nothing of this application waits for anything else.
"""

import sys

from klein import Klein
from twisted.internet import reactor
from twisted.web.server import Site

from zpipeline import NotSettled, Pipeline

app = Klein()
pipeline = Pipeline(reactor, [f"tcp://127.0.0.1:{sys.argv[2]}"], journal=None, drain=0.0)


@app.route("/", methods=["POST"])
async def wait(request):
    job_id = await pipeline.push(request.content.read())
    try:
        return await pipeline.result(job_id)
    except NotSettled as error:
        return str(error)


pipeline.startService()
reactor.addSystemEventTrigger("before", "shutdown", pipeline.stopService)
reactor.listenTCP(int(sys.argv[1]), Site(app.resource()), interface="127.0.0.1")
reactor.callWhenRunning(print, "it serves", flush=True)
reactor.run()
