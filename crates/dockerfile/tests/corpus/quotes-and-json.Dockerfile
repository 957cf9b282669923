FROM base
CMD ["a", "b c", "d\"e", "\u00e9"]
ENTRYPOINT [ "x" , "y" ]
RUN ["sh", "-c", "echo $HOME"]
CMD ['single', 'quotes']
ENTRYPOINT []
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
RUN a | b
CMD
