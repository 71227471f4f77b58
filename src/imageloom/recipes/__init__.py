"""From text or YAML to a plan: pipelines, recipes, exact rewrites, and the plan for each item."""
