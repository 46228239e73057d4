"""The SQL database of tracker and registry: schema, revisions, connections and damage."""
