from base as one
run a
from one
copy --from=one /a /b
cmd ["x"]
