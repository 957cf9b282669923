FROM nginx:alpine
LABEL maintainer="Ann <ann@example.com>" org.opencontainers.image.title="A site"
COPY ./public /usr/share/nginx/html
COPY nginx.conf /etc/nginx/conf.d/default.conf
EXPOSE 80 443/tcp
STOPSIGNAL SIGQUIT
