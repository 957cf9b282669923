# frontend=x
# syntax=docker/dockerfile:1
FROM base
