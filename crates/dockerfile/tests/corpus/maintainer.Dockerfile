FROM base
MAINTAINER Ann Example <ann@example.com>
