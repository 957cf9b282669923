# top

   # indented
FROM base
RUN echo \
# in between
   # indented in between
   a \

   b
# end
