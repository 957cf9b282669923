FROM php:8.3-apache
RUN docker-php-ext-install pdo pdo_mysql && a2enmod rewrite
ADD https://example.com/installer /tmp/composer-setup.php
RUN ["php", "/tmp/composer-setup.php", "--install-dir=/usr/local/bin"]
COPY --chown=www-data:www-data src/ /var/www/html/
