"""The console: a page that shows prompts find their experts. Static files only; what it shows comes from the APIs."""
