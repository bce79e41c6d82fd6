from twisted.application.service import ServiceMaker

zpipe_web = ServiceMaker(
    "zpipeline's web side",
    "zpipeline.tap.web",
    "A web server that hands jobs to a pool of ZeroMQ workers.",
    "zpipe-web",
)

zpipe_worker = ServiceMaker(
    "A worker of zpipeline",
    "zpipeline.tap.worker",
    "A ZeroMQ worker that runs jobs with your handler.",
    "zpipe-worker",
)

zpipe = ServiceMaker(
    "A whole zpipeline",
    "zpipeline.tap.all",
    "zpipe-web and its workers, all in one command.",
    "zpipe",
)
