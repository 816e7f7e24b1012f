"""The page: a trace in one HTML file, live from a server, or with the model in the browser."""
