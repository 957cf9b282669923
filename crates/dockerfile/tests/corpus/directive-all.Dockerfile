# syntax = docker/dockerfile:1.7
# escape = \
# check = skip=JSONArgsRecommended
# a comment ends directives
# escape=`
FROM base
CMD echo hi
