"""The HTTP interface of zpipe-web: a face on a pipeline (docs/http.rst is its reference).

    http/            HTTP below the routes: bytes become requests, and no client has more than its share
    site.py          the site: the routes, served by http/
    resource.py      the routes in a site of twisted.web
    app.py           the routes (Klein)
    routes.py        how a request gets to its route, and its answer back
    asked.py         what routes ask of a request
    answers.py       what they answer
    batch.py         the lines of a batch
    idempotency.py   the key of a request that may be sent twice
    origins.py       which requests are for us: by the host that they name, and the page that sent them
    observe.py       what is seen of the pipeline: as JSON, and as events
    prefer.py        for how long a request waits for what comes of its job
    query.py         the parameters of a query string
    openapi.py       the description of all this, for programs: openapi.json
    page.py          the files of the page, which are in ui/
    problems.py      errors as RFC 9457 has them

Whoever embeds a pipeline in an application of their own pushes from their own routes and needs
nothing of this. Importing it installs the default reactor, as importing Klein does.
"""

from zpipeline.web.resource import make_resource
from zpipeline.web.site import make_site

__all__ = ["make_resource", "make_site"]
