"""The web console: who may call what, and why not. A backend for frontend: tokens never reach the browser."""
