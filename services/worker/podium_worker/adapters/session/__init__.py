"""The worker's side of WorkerService.Connect."""
