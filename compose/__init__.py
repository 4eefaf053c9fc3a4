"""The whole stack in containers: what `make up` and `make down` do with compose.yaml."""
