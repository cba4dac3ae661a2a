"""Step 6, deploy: the export that checks itself, the inference engine, the HTTP server and its page."""
