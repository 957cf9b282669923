FROM base
RUN echo "a b" 'c d' \"e\" $HOME `date` "$(x)" # not a comment
RUN if [ -f /x ]; then \
      echo "yes"; \
    else \
      echo 'no'; \
    fi
RUN echo \
  "one # two" \
  # gone
  three
