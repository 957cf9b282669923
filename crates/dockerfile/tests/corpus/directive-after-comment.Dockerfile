# just a comment
# escape=`
FROM base
RUN a \
 b
